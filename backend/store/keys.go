package store

import "encoding/binary"

// First octets of keys. DESIGN.md describes the rows. Numbers in keys are
// big-endian, so that rows of one thing lie together in order.
const (
	kindAccountName = 'a' // name -> account id
	kindAccount     = 'A' // account -> Account
	kindMailbox     = 'b' // account, mailbox -> Mailbox
	kindCounters    = 'c' // account, mailbox -> Counters
	kindJournal     = 'j' // mailbox, MODSEQ -> what a command changed
	kindKey         = 'k' // delivery key -> Delivered
	kindMessage     = 'm' // message -> Message
	kindPart        = 'q' // index of a part entry -> message
	kindRefs        = 'r' // message -> reference count, when not the first one
	kindSubscribed  = 's' // account, name -> nothing
	kindState       = 'S' // -> State
	kindRow         = 'u' // mailbox, UID -> Row
	kindExpiry      = 'x' // time, index -> delivery keys to forget
	kindDead        = 'z' // index / DeadSpan -> dead octets in these entries
)

func key8(b []byte, kind byte, a uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b[:0], kind), a)
}

func key16(b []byte, kind byte, a, c uint64) []byte {
	return binary.BigEndian.AppendUint64(key8(b, kind, a), c)
}

func keyRow(b []byte, mailbox uint64, uid uint32) []byte {
	return binary.BigEndian.AppendUint32(key8(b, kindRow, mailbox), uid)
}

func keyName(b []byte, kind byte, name string) []byte {
	return append(append(b[:0], kind), name...)
}

func keySubscribed(b []byte, account uint64, name string) []byte {
	return append(key8(b, kindSubscribed, account), name...)
}

func keyDelivery(b []byte, k [16]byte) []byte {
	return append(append(b[:0], kindKey), k[:]...)
}

// First octet of a note in the journal, before a UID set of package command.
const (
	ChangedFlags = 1 // the flags of these messages
	ChangedGone  = 2 // these messages were removed
)

package store

import "encoding/binary"

// First octets of keys. DESIGN.md describes the rows. Numbers in keys are
// big-endian, so that rows of one thing lie together in order.
const (
	kindAccount     = 'A' // account, then a section of it:
	sectionSelf     = 0   //   -> Account
	sectionBoxes    = 1   //   mailbox, 0 -> Mailbox; mailbox, 1 -> Counters
	sectionNames    = 2   //   subscribed name -> nothing
	sectionAnswered = 3   //   hash of sender and answer -> Answered; no hash -> how many
	sectionRights   = 4   //   mailbox -> Rights; no row is no list
	kindFormat      = 'F' // -> level of the pair's format; no row is level 1
	kindState       = 'S' // -> State
	kindAccountName = 'a' // name -> account id
	kindJournal     = 'j' // mailbox, MODSEQ -> what a command changed
	kindKey         = 'k' // delivery key -> Delivered
	kindMessage     = 'm' // message -> Message
	kindMove        = 'o' // account name -> Move
	kindPart        = 'q' // index of a part entry -> message
	kindRefs        = 'r' // message -> reference count, when not the first one
	kindRow         = 'u' // mailbox, UID -> Row
	kindForget      = 'v' // time, account, hash -> nothing; the answered to forget
	kindExpiry      = 'x' // time, index -> delivery keys to forget
	kindDead        = 'z' // index / DeadSpan -> dead octets in these entries
)

func key8(b []byte, kind byte, a uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b[:0], kind), a)
}

func key16(b []byte, kind byte, a, c uint64) []byte {
	return binary.BigEndian.AppendUint64(key8(b, kind, a), c)
}

func keyAccount(b []byte, account uint64) []byte {
	return append(key8(b, kindAccount, account), sectionSelf)
}

// Places of the parts of a key below kindAccount.
const (
	sectionAt = 9  // the section
	boxAt     = 10 // the mailbox
	boxPartAt = 18 // 0 or 1
)

func keyMailbox(b []byte, account, mailbox uint64) []byte {
	b = append(key8(b, kindAccount, account), sectionBoxes)
	return append(binary.BigEndian.AppendUint64(b, mailbox), 0)
}

func keyCounters(b []byte, account, mailbox uint64) []byte {
	b = keyMailbox(b, account, mailbox)
	b[boxPartAt] = 1
	return b
}

func keyRow(b []byte, mailbox uint64, uid uint32) []byte {
	return binary.BigEndian.AppendUint32(key8(b, kindRow, mailbox), uid)
}

func keyName(b []byte, kind byte, name string) []byte {
	return append(append(b[:0], kind), name...)
}

func keySubscribed(b []byte, account uint64, name string) []byte {
	return append(append(key8(b, kindAccount, account), sectionNames), name...)
}

func keyDelivery(b []byte, k [16]byte) []byte {
	return append(append(b[:0], kindKey), k[:]...)
}

// First octet of a note in the journal, before a UID set of package command.
const (
	ChangedFlags = 1 // the flags of these messages
	ChangedGone  = 2 // these messages were removed
)

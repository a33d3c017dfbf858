package command

// Code says how an entry, or one recipient of it, fared.
type Code byte

// The codes. They are answers inside one process and not part of any format.
const (
	OK Code = iota
	NoAccount
	NoMailbox
	Exists
	HasChildren
	NotAllowed // INBOX cannot be deleted and takes all mail, a mailbox cannot move below itself
	OverQuota
	QuotaZero // the account may hold nothing
	AtLimit   // mailboxes, keywords, subscriptions, UIDs
	KeyMismatch
	Again  // more to do than one entry may: repeat
	Moving // the account is on its way to another pair, or has gone there
)

// Delivered is the answer to Deliver.
type Delivered struct {
	Message    uint64 // id, also when no recipient took it
	Recipients []DeliveredTo
}

// DeliveredTo is what became of one recipient.
type DeliveredTo struct {
	Code        Code
	Duplicate   bool   // an earlier entry with the same key did it
	Mailbox     string // where it went
	Refused     bool   // that is INBOX, because who posts may not post to the folder
	UIDValidity uint32
	UID         uint32 // 0 when the message was not to be stored
	Answer      bool   // the message is to be answered, or the claim is granted; for a duplicate, as long as nobody has claimed it
	Peer        string // with Moving: the pair that has the account now, "" while it is on its way
	Epoch       int64  // with Peer: when it went there, Unix nanoseconds
}

// Done is the answer to Account, Create, Delete, Remove, Rename, Subscribe, Quota,
// Move, Import and Rights. With Again it names the mailbox that is to be emptied first.
type Done struct {
	Code    Code
	Account uint64
	Mailbox uint64
}

// AppendedTo is the answer to AppendMessages: UIDs from FirstUID on.
type AppendedTo struct {
	Code        Code
	UIDValidity uint32
	FirstUID    uint32
}

// Stored is the answer to Store.
type Stored struct {
	Code     Code
	Changed  UIDSet
	Modified UIDSet // left alone by the condition
	ModSeq   uint64 // of the changed ones
}

// Expunged is the answer to Expunge.
type Expunged struct {
	Code   Code
	UIDs   UIDSet
	ModSeq uint64
}

// Copied is the answer to Copy: the messages of Source have the UIDs from
// FirstUID on in their order.
type Copied struct {
	Code        Code
	UIDValidity uint32
	Source      UIDSet
	FirstUID    uint32
}

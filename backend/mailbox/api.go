package mailbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// Log is what mailbox needs of the pair's replicated log.
type Log interface {
	// Propose appends data to the log and returns, once a majority has it on
	// disk and this replica has applied it, what the state machine answered
	// and the entry's index. data must not change afterwards. An error that is
	// not ErrNotServing or ErrBusy means that the outcome is unknown. Any
	// number of calls may run at once.
	Propose(ctx context.Context, data []byte) (result any, index uint64, err error)
	// Confirm returns nil while this replica may answer reads as current: it
	// serves, and its lease has not run out. Any number of calls may run at once.
	Confirm(ctx context.Context) error
}

// Errors that servers turn into replies. Anything else is temporary.
var (
	ErrNoMailbox    = errors.New("no such mailbox")
	ErrNoAccount    = errors.New("no such account")
	ErrExists       = errors.New("mailbox exists")
	ErrBadName      = errors.New("mailbox name not allowed")
	ErrHasChildren  = errors.New("mailbox has children")
	ErrOverQuota    = errors.New("over quota")
	ErrTooBig       = errors.New("message too big")
	ErrReadOnly     = errors.New("mailbox opened read-only")
	ErrExpunged     = errors.New("message expunged")
	ErrLimit        = errors.New("limit reached")
	ErrBusy         = errors.New("too much in flight")
	ErrNoRoom       = fmt.Errorf("the disk has no room for mail: %w", ErrBusy)
	ErrSpecialUse   = errors.New("special use not possible here")
	ErrKeyMismatch  = errors.New("delivery key seen with another body")
	ErrUnknownState = errors.New("outcome unknown")
	ErrOwner        = errors.New("the owner has every right, always")
	ErrInbox        = errors.New("INBOX takes mail from anyone, always")
	ErrIdentifier   = errors.New("not an identifier of anybody")
	ErrNotShared    = errors.New("others can only have the right to post: mailboxes are not shared")
	ErrLevel        = errors.New("the pair's format does not know this yet: finalize the upgrade first")
)

// ErrNotServing says that another replica serves, or none.
type ErrNotServing struct {
	Leader string // node name of the replica to ask; "" when there is none
}

func (e *ErrNotServing) Error() string {
	if e.Leader == "" {
		return "not serving, no replica serves now"
	}
	return fmt.Sprintf("not serving, ask %s", e.Leader)
}

// ErrMoved says that the account is at another pair, or on its way between two.
type ErrMoved struct {
	Pair  string // to ask; "" while it is on its way: try again
	Epoch int64  // when it went there, Unix nanoseconds: of two answers the later one holds
}

func (e *ErrMoved) Error() string {
	if e.Pair == "" {
		return "mailbox moves between pairs"
	}
	return "mailbox is not here, ask " + e.Pair
}

// Flags are a message's flags as bits: the five system flags below, then one
// bit for each keyword of the mailbox, named by View.Keywords. A mailbox has at
// most MaxKeywords keywords.
type Flags uint64

// System flags of RFC 9051 2.3.2. \Recent is not stored: rev2 dropped it, and
// rev1 sessions are told 0 RECENT.
const (
	FlagSeen Flags = 1 << iota
	FlagAnswered
	FlagFlagged
	FlagDeleted
	FlagDraft

	firstKeyword = 5
	MaxKeywords  = 64 - firstKeyword
)

// Row is one message of a mailbox, without its content.
type Row struct {
	UID          uint32
	Flags        Flags
	ModSeq       uint64
	InternalDate int64  // Unix nanoseconds
	SaveDate     int64  // Unix nanoseconds, when it came into this mailbox
	Size         int64  // octets, with CRLF
	MessageID    uint64 // of the stored message, shared by its copies; EMAILID of RFC 8474
}

// Info describes a mailbox at one moment.
type Info struct {
	ID            uint64 // MAILBOXID, never used again
	Name          string // UTF-8, "/" between levels; "INBOX" in this spelling
	UIDValidity   uint32
	UIDNext       uint32
	HighestModSeq uint64
	Messages      int
	Unseen        int
	Deleted       int
	Size          int64    // octets, STATUS=SIZE
	SpecialUse    []string // `\Sent` ...
	Subscribed    bool
	HasChildren   bool
	NonExistent   bool // a name that only has children, or only a subscription
	Keywords      []string
}

// AppendMessage is one message of APPEND.
type AppendMessage struct {
	Bytes        []byte
	Flags        Flags    // system flags only
	Keywords     []string // by name
	InternalDate time.Time
}

// StoreOp is what STORE does with the flags given.
type StoreOp int

// The three forms of STORE.
const (
	StoreReplace StoreOp = iota
	StoreAdd
	StoreRemove
)

// StoreResult tells what a STORE did.
type StoreResult struct {
	Changed  []uint32 // UIDs whose flags changed; their rows carry the new MODSEQ
	Modified []uint32 // UIDs left alone by UNCHANGEDSINCE
	ModSeq   uint64   // given to the changed ones
}

// CopyResult is the answer to COPY and MOVE, for COPYUID.
type CopyResult struct {
	UIDValidity uint32
	Source      []uint32
	Target      []uint32
}

// Changes is what Sync found. Sequence numbers in Expunged are those to send
// as untagged EXPUNGE in that order (each counts after the ones before it).
// Flagged holds sequence numbers after the expunges.
type Changes struct {
	Expunged     []int
	ExpungedUIDs []uint32
	Flagged      []int
	Exists       int  // new total
	Grown        bool // messages arrived
	Keywords     bool // the keyword table grew
	ModSeq       uint64
	Gone         bool // the mailbox was deleted: the session must end
}

// Grant is a line of a mailbox's list of rights.
type Grant struct {
	Identifier string // Anyone, or an address in lower case
	Rights     string // letters of RFC 4314 2.1
}

// Delivery is one LMTP transaction for this pair.
type Delivery struct {
	ReversePath mail.Address
	TraceID     string
	Trace       []byte // header fields of this hop, put before Message: Return-Path; not kept
	Message     []byte // whole, CRLF, with the trace fields of the relay; not kept
	Named       bool   // more recipients may follow by the name of Message: see Known
	Same        *Known // stands for Message, which is empty then
	Arrival     time.Time
	Recipients  []DeliveryRecipient
}

// DeliveryRecipient is one mailbox the message goes to.
type DeliveryRecipient struct {
	Account string // uid@domain
	Folder  string // "" is INBOX; one that does not exist falls back to INBOX unless Create, and so does one that Poster may not post to
	Create  bool
	Key     mail.DeliveryKey // zero: no duplicate check
	Flags   Flags            // system flags
	Quota   *mail.Quota
	Force   bool // guaranteed delivery: quota is ignored

	Poster []string // identities of who posts to Folder; none: nobody who is known

	Welcome bool // is the mailbox new and without its welcome?

	Autoreply *mail.AutoreplyQuery // is the message to be answered; nil: nobody asks

	Keywords []string // by name; those that do not fit the mailbox's table are left out
}

// DeliveryResult is the outcome for one recipient. Err is nil when the message
// is committed, also when an earlier attempt had done so (Duplicate).
type DeliveryResult struct {
	Err         error
	Duplicate   bool
	Mailbox     string // where it went
	Refused     bool   // that is INBOX, because the folder is there and Poster may not post to it
	UIDValidity uint32
	UID         uint32 // 0 when the message was not to be stored
	Created     int64  // for Welcome: when the mailbox was made, in Unix seconds; 0 when it is not new, or was welcomed
	Answer      bool   // the message is to be answered, or the claim is granted, for Autoreply
}

// Usage is what an account holds, and may hold: -1 is no limit.
type Usage struct {
	Account         string
	Bytes, Messages int64
	Limit           mail.Quota
}

// The methods of the concrete types, listed here as the contract that the
// protocol servers are written against. Every method that reads calls
// Log.Confirm before its answer may be used; every method that writes returns
// after the entry is committed and applied here.
type (
	service interface {
		// Ready returns nil when this replica serves, or *ErrNotServing.
		Ready(ctx context.Context) error
		// Deliver stores the message once and adds it to each recipient's
		// mailbox. An error for the whole means nothing is known about any
		// recipient (or nothing was done, for *ErrNotServing and ErrBusy).
		Deliver(ctx context.Context, d *Delivery) ([]DeliveryResult, error)
		// Account opens the account, making it with its INBOX (and the usual
		// special-use mailboxes) on first use.
		Account(ctx context.Context, name string) (*Account, error)
		// Accounts lists account names in order, at most limit, after the given one.
		Accounts(ctx context.Context, after string, limit int) ([]string, error)
		// Usage is Accounts with what each account holds and may hold.
		Usage(ctx context.Context, after string, limit int) ([]Usage, error)
		// Remove takes an account away with all its mail, for good. ErrNoAccount
		// when there is none, ErrLevel before the pair's format has it.
		Remove(ctx context.Context, name string) (Usage, error)
	}
	account interface {
		Name() string
		ID() uint64
		// List returns every mailbox in name order, INBOX first, with parents
		// that do not exist and subscriptions without a mailbox as NonExistent.
		List(ctx context.Context) ([]Info, error)
		Status(ctx context.Context, name string) (Info, error)
		Create(ctx context.Context, name string, specialUse []string) (Info, error)
		// Restore is Create with what a mailbox of a snapshot had.
		Restore(ctx context.Context, name string, p Properties) error
		Delete(ctx context.Context, name string) error
		// Rename moves name and its children; INBOX's messages move to the new
		// mailbox and INBOX stays (RFC 9051 6.3.6).
		Rename(ctx context.Context, from, to string) error
		Subscribe(ctx context.Context, name string, on bool) error
		// Append adds the messages, all or none, and returns their UIDs.
		Append(ctx context.Context, name string, msgs []AppendMessage) (uidValidity uint32, uids []uint32, err error)
		// Quota returns usage and limits (-1: none).
		Quota(ctx context.Context) (bytes, messages int64, limit mail.Quota, err error)
		Open(ctx context.Context, name string, readOnly bool) (*View, error)
		// Grants lists what others than the owner may do with a mailbox, in the
		// order of identifiers: by its list, or what holds without one.
		Grants(ctx context.Context, name string) ([]Grant, error)
		AllGrants(ctx context.Context) (map[string][]Grant, error)
		// SetGrant changes a line of the list, which the first change makes.
		// Nobody but the owner can have another right than to post.
		SetGrant(ctx context.Context, name, identifier string, op StoreOp, rights string) error
	}
	// A View is one session's picture of a mailbox: its numbering changes only
	// in Sync. Methods are for one goroutine, Changed apart.
	view interface {
		Info() Info // as of the last Sync
		ReadOnly() bool
		Keywords() []string // names of the bits after the system flags, in order
		Len() int
		UID(seq int) uint32                // 1-based
		Seq(uid uint32) (seq int, ok bool) // seq of uid; not ok: the place where it would be
		// Rows calls f for each of the sequence numbers, ascending, with the row
		// as it is now; rows that are gone are skipped and reported by ErrExpunged
		// after the rest. row is valid during the call.
		Rows(ctx context.Context, seqs []int, f func(seq int, row *Row) error) error
		// Changed is readable when Sync may find something.
		Changed() <-chan struct{}
		// Sync brings the picture up to date. Without expunge, messages that are
		// gone keep their number until a Sync with it (RFC 9051 7.5.1).
		Sync(ctx context.Context, expunge bool) (Changes, error)
		// ChangedSince lists UIDs with a MODSEQ above since, and the UIDs
		// expunged since then, both ascending (CONDSTORE, QRESYNC). complete is
		// false when expunges that far back are no longer known: vanished then
		// holds every UID below UIDNext that does not exist.
		ChangedSince(ctx context.Context, since uint64) (changed, vanished []uint32, complete bool, err error)
		// Store changes flags. keywords are names, made when new.
		Store(ctx context.Context, uids []uint32, op StoreOp, flags Flags, keywords []string, unchangedSince *uint64) (StoreResult, error)
		// Expunge removes those of uids (nil: all) that have \Deleted, or with
		// force all of uids (POP3 DELE, MOVE), none when uids is nil.
		Expunge(ctx context.Context, uids []uint32, force bool) (expunged []uint32, err error)
		Copy(ctx context.Context, uids []uint32, to string) (CopyResult, error)
		Move(ctx context.Context, uids []uint32, to string) (CopyResult, error)
		// Message opens a message's content.
		Message(ctx context.Context, row *Row) (*Content, error)
		Close()
	}
	content interface {
		Part() *message.Part // structure and envelope; decoded on first use
		Size() int64
		// Bytes returns octets [off, off+n) of the message, checked against
		// their checksum. The slice is valid until Close or the next call.
		Bytes(ctx context.Context, off, n int64) ([]byte, error)
		// WriteTo streams octets [off, off+n) in pieces of at most 256 KB.
		Stream(ctx context.Context, off, n int64, f func(piece []byte) error) error
		Close() // returns buffers to their pool
	}
)

var (
	_ service = (*Service)(nil)
	_ account = (*Account)(nil)
	_ view    = (*View)(nil)
	_ content = (*Content)(nil)
)

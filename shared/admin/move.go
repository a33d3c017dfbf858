package admin

import "time"

// The methods by which an account goes to another pair. What travels between the
// two pairs is entries of the log (command.Import of package backend/command): a
// pair gives them without the octets of messages, and whoever moves the account
// gives them to the other pair, with the octets.
var (
	MoveState   = Method[MailboxName, MoveStatus]{Name: "mailbox.move.state"}
	MoveStep    = Method[MoveStepRequest, None]{Name: "mailbox.move.step", Mutating: true}
	MoveAccount = Method[MailboxName, MovedAccount]{Name: "mailbox.move.account"}
	MoveRows    = Method[MoveRowsRequest, MovedRows]{Name: "mailbox.move.rows"}
	MoveBodies  = Method[MoveBodiesRequest, MovedBodies]{Name: "mailbox.move.bodies"}
	MoveKeys    = Method[MoveKeysRequest, MovedKeys]{Name: "mailbox.move.keys"}
	MovePart    = Method[MovePartRequest, MoveExtent]{Name: "mailbox.move.part", Mutating: true}
	MoveImport  = Method[MoveImportRequest, None]{Name: "mailbox.move.import", Mutating: true}
	MoveSum     = Method[MailboxName, MovedSum]{Name: "mailbox.move.sum"}
)

// States of an account between two pairs.
const (
	MoveCopied  = "copied"  // it is here, and is being copied
	MoveFenced  = "fenced"  // it is here, and takes nothing for a moment
	MoveGone    = "gone"    // it is at the other pair
	MoveArrives = "arrives" // it is being filled
)

// MoveStatus is where an account stands between two pairs.
type MoveStatus struct {
	Exists bool      `json:"exists"`
	State  string    `json:"state,omitempty"` // "": it is not on its way
	Closed bool      `json:"closed,omitempty"`
	Peer   string    `json:"peer,omitempty"` // the other pair
	Token  string    `json:"token,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// MoveStepRequest asks for a step of a move; Step is a command.MoveStep.
type MoveStepRequest struct {
	Pair    string `json:"pair,omitempty"`
	Account string `json:"account"`
	Step    byte   `json:"step"`
	Peer    string `json:"peer,omitempty"`
	Token   string `json:"token"`
}

// MovedAccount is an account without its messages: an entry for itself, and one
// for each mailbox.
type MovedAccount struct {
	Self      []byte   `json:"self"`
	Mailboxes [][]byte `json:"mailboxes"`
	Memory    [][]byte `json:"memory"`   // entries with the senders that were answered
	Messages  []int64  `json:"messages"` // of each mailbox
	Bytes     int64    `json:"bytes"`
}

// MoveRowsRequest asks for messages of the mailbox with this UIDVALIDITY.
type MoveRowsRequest struct {
	Pair        string `json:"pair,omitempty"`
	Account     string `json:"account"`
	UIDValidity uint32 `json:"uidvalidity"`
	After       uint32 `json:"after"` // UID
	Limit       int    `json:"limit"`
}

// MovedRows is an entry with messages, and by their place the number and the size
// of each.
type MovedRows struct {
	Entry []byte   `json:"entry"`
	IDs   []uint64 `json:"ids"`
	Sizes []int64  `json:"sizes"`
	More  bool     `json:"more,omitempty"`
}

// MoveBodiesRequest asks for octets from Off on of messages, at most Limit of
// each.
type MoveBodiesRequest struct {
	Pair  string   `json:"pair,omitempty"`
	IDs   []uint64 `json:"ids"`
	Off   int64    `json:"off,omitempty"`
	Limit int64    `json:"limit"`
}

// MovedBodies are octets of messages; one that is gone is in Gone, by its place.
type MovedBodies struct {
	Octets [][]byte `json:"octets"`
	Gone   []int    `json:"gone,omitempty"`
}

// MoveKeysRequest asks for what is remembered of deliveries, since a clock that an
// earlier answer gave; 0 is all.
type MoveKeysRequest struct {
	Pair    string `json:"pair,omitempty"`
	Account string `json:"account"`
	Since   int64  `json:"since,omitempty"`
}

// MovedKeys are entries with delivery keys.
type MovedKeys struct {
	Entries [][]byte `json:"entries"`
	Clock   int64    `json:"clock"`
}

// MovePartRequest brings a part of a message that is too large for one entry.
type MovePartRequest struct {
	Pair   string `json:"pair,omitempty"`
	Octets []byte `json:"octets"`
}

// MoveExtent is where a part is in the log.
type MoveExtent struct {
	Index uint64 `json:"index"`
	Off   uint32 `json:"off"`
	Len   uint32 `json:"len"`
}

// MoveImportRequest brings an entry, and the messages of its rows by their place.
type MoveImportRequest struct {
	Pair    string        `json:"pair,omitempty"`
	Token   string        `json:"token"`
	Entry   []byte        `json:"entry"`
	Brought []MoveMessage `json:"brought,omitempty"`
}

// MoveMessage is the octets of a message, or where its parts are.
type MoveMessage struct {
	Row    int          `json:"row"`
	Octets []byte       `json:"octets,omitempty"`
	Parts  []MoveExtent `json:"parts,omitempty"`
}

// MovedSum is a digest of all that a user can see of an account.
type MovedSum struct {
	Sum string `json:"sum"`
}

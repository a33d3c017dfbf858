package admin

import "time"

// Version is the version of the API, in every path.
const Version = "v1"

// Method is one call: the path below the version, what goes in, what comes out.
type Method[In, Out any] struct {
	Name     string // "queue.list"
	Mutating bool   // POST only; the others answer GET too, with an empty request
}

// None is the type of a request or an answer without content.
type None struct{}

// The methods. Those of every node come first.
var (
	GetStatus    = Method[None, NodeStatus]{Name: "status"}
	GetCluster   = Method[None, Cluster]{Name: "cluster"}
	GetConfig    = Method[None, Config]{Name: "config"}
	Reload       = Method[None, ReloadResult]{Name: "reload", Mutating: true}
	Drain        = Method[DrainRequest, None]{Name: "drain", Mutating: true}
	Trace        = Method[TraceRequest, TraceResult]{Name: "trace"}
	QueueList    = Method[QueueQuery, QueueListing]{Name: "queue.list"}
	QueueShow    = Method[QueueID, QueueMessage]{Name: "queue.show"}
	QueueHold    = Method[QueueID, None]{Name: "queue.hold", Mutating: true}
	QueueRelease = Method[QueueID, None]{Name: "queue.release", Mutating: true}
	QueueRetry   = Method[QueueID, None]{Name: "queue.retry", Mutating: true}
	QueueDelete  = Method[QueueID, None]{Name: "queue.delete", Mutating: true}
	PairStatus   = Method[PairName, GroupStatus]{Name: "pair.status"}
	PairTransfer = Method[TransferRequest, GroupStatus]{Name: "pair.transfer", Mutating: true}
	PairDigest   = Method[PairName, Digest]{Name: "pair.digest"}
	MailboxList  = Method[MailboxQuery, MailboxListing]{Name: "mailbox.list"}
	MailboxShow  = Method[MailboxQuery, MailboxDetail]{Name: "mailbox.show"}
)

// NodeStatus is what a node says of itself.
type NodeStatus struct {
	Name     string        `json:"name"`
	Cluster  string        `json:"cluster"`
	Role     string        `json:"role"` // relay, backend, witness
	Pair     string        `json:"pair,omitempty"`
	State    string        `json:"state"` // ready, starting, draining, or why it is not ready
	Version  string        `json:"version"`
	PID      int           `json:"pid"`
	Started  time.Time     `json:"started"`
	Groups   []GroupStatus `json:"groups,omitempty"`
	Queue    *QueueStatus  `json:"queue,omitempty"`
	Sessions int           `json:"sessions"`
	CertEnds time.Time     `json:"certificate_ends"`
}

// GroupStatus is one replica's view of its raft group.
type GroupStatus struct {
	Pair     string   `json:"pair"`
	Node     string   `json:"node"`
	Witness  bool     `json:"witness,omitempty"`
	Serving  bool     `json:"serving"`
	Leader   string   `json:"leader"` // node name, "" when there is none
	State    string   `json:"state"`  // raft's word: Leader, Follower, Candidate
	Term     uint64   `json:"term"`
	First    uint64   `json:"first_index"`
	Last     uint64   `json:"last_index"`
	Commit   uint64   `json:"commit_index"`
	Applied  uint64   `json:"applied_index"`
	Floor    uint64   `json:"floor"`
	Voters   []string `json:"voters"`
	LogBytes int64    `json:"log_bytes"`
}

// QueueStatus sums a relay's queue up.
type QueueStatus struct {
	Queued int       `json:"queued"`
	Held   int       `json:"held"`
	Bytes  int64     `json:"bytes"`
	Oldest time.Time `json:"oldest,omitzero"`
}

// Cluster is one node's view of the members, from gossip.
type Cluster struct {
	Nodes []Member `json:"nodes"`
	Pairs []Pair   `json:"pairs"`
}

// Member is one node as gossip shows it.
type Member struct {
	Name     string            `json:"name"`
	Role     string            `json:"role"`
	Pair     string            `json:"pair,omitempty"`
	State    string            `json:"state"` // alive, draining, dead
	Version  string            `json:"version"`
	Load     float64           `json:"load"`
	Services map[string]string `json:"services,omitempty"`
}

// Pair is who serves a pair.
type Pair struct {
	Name    string `json:"name"`
	Serving string `json:"serving"` // "" when nobody is known to
	Term    uint64 `json:"term"`
	Applied uint64 `json:"applied"`
}

// Config is the configuration in use, secrets shown as "***".
type Config struct {
	Values map[string]any `json:"values"`
}

// ReloadResult says what a reload has changed.
type ReloadResult struct {
	Changed      []string `json:"changed"`
	NeedsRestart []string `json:"needs_restart"`
}

// DrainRequest sets or clears the draining flag: no new work is accepted, and
// a backend hands its groups over.
type DrainRequest struct {
	On bool `json:"on"`
}

// TraceRequest asks for the steps of messages. One of the fields is set.
type TraceRequest struct {
	ID      string `json:"id,omitempty"`      // trace id, queue id or Message-ID
	Address string `json:"address,omitempty"` // sender or recipient
	Limit   int    `json:"limit,omitempty"`   // 0 is 1,000
}

// TraceResult holds the steps in the order of time.
type TraceResult struct {
	Events    []TraceEvent `json:"events"`
	Truncated bool         `json:"truncated,omitempty"`
}

// TraceEvent is one step of one message, as in the mail log.
type TraceEvent struct {
	Time   time.Time         `json:"time"`
	Node   string            `json:"node"`
	Event  string            `json:"event"`
	ID     string            `json:"id"`
	Fields map[string]string `json:"fields,omitempty"`
}

// QueueQuery selects messages of a queue.
type QueueQuery struct {
	Address string `json:"address,omitempty"` // sender or recipient; "" is all
	State   string `json:"state,omitempty"`   // queued, deferred, held; "" is all
	After   string `json:"after,omitempty"`   // continue after this id
	Limit   int    `json:"limit,omitempty"`   // 0 is 1,000
}

// QueueListing is a part of a queue.
type QueueListing struct {
	Messages []QueueMessage `json:"messages"`
	More     bool           `json:"more,omitempty"`
}

// QueueID names a message of a queue.
type QueueID struct {
	ID string `json:"id"`
}

// QueueMessage is one message of a queue.
type QueueMessage struct {
	ID          string           `json:"id"`
	State       string           `json:"state"` // queued, deferred, held
	ReversePath string           `json:"reverse_path"`
	Size        int64            `json:"size"`
	Arrival     time.Time        `json:"arrival"`
	Next        time.Time        `json:"next_attempt,omitzero"`
	Attempts    int              `json:"attempts"`
	Recipients  []QueueRecipient `json:"recipients,omitempty"`
}

// QueueRecipient is one recipient of a queued message.
type QueueRecipient struct {
	Address string `json:"address"`
	Channel string `json:"channel"`
	NextHop string `json:"next_hop"`
	State   string `json:"state"` // waiting, delivered, bounced
	Reply   string `json:"reply,omitempty"`
}

// PairName names a pair; "" is the only one of the node.
type PairName struct {
	Pair string `json:"pair,omitempty"`
}

// TransferRequest asks for a hand-over; an empty To leaves the choice to the
// pair.
type TransferRequest struct {
	Pair string `json:"pair,omitempty"`
	To   string `json:"to,omitempty"`
}

// Digest is a hash over the replicated state of a pair at one index; replicas
// that applied the same index have the same one.
type Digest struct {
	Pair     string            `json:"pair"`
	Node     string            `json:"node"`
	Applied  uint64            `json:"applied"`
	Digest   string            `json:"digest"`
	Accounts map[string]string `json:"accounts,omitempty"`
}

// MailboxQuery selects accounts or one account's mailboxes.
type MailboxQuery struct {
	Pair    string `json:"pair,omitempty"`
	Account string `json:"account,omitempty"`
	After   string `json:"after,omitempty"`
	Limit   int    `json:"limit,omitempty"` // 0 is 1,000
}

// MailboxListing is a list of accounts.
type MailboxListing struct {
	Accounts []string `json:"accounts"`
	More     bool     `json:"more,omitempty"`
}

// MailboxDetail is one account.
type MailboxDetail struct {
	Account      string    `json:"account"`
	Pair         string    `json:"pair"`
	UsedBytes    int64     `json:"used_bytes"`
	UsedMessages int64     `json:"used_messages"`
	LimitBytes   int64     `json:"limit_bytes"` // -1: none
	LimitMsgs    int64     `json:"limit_messages"`
	Mailboxes    []Mailbox `json:"mailboxes"`
}

// Mailbox is one mailbox of an account.
type Mailbox struct {
	Name        string   `json:"name"`
	UIDValidity uint32   `json:"uidvalidity"`
	UIDNext     uint32   `json:"uidnext"`
	Messages    int      `json:"messages"`
	Unseen      int      `json:"unseen"`
	Size        int64    `json:"size"`
	SpecialUse  []string `json:"special_use,omitempty"`
}

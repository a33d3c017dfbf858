package admin

import (
	"fmt"
	"time"
)

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
	GetStatus  = Method[None, NodeStatus]{Name: "status"}
	GetCluster = Method[None, Cluster]{Name: "cluster"}
	GetConfig  = Method[None, Config]{Name: "config"}
	// CompareConfig changes nothing; what it is given may hold secrets.
	CompareConfig = Method[ConfigText, ConfigDifferences]{Name: "config.compare"}
	GossipKeys    = Method[None, KeyRing]{Name: "gossip.keys"}
	// ChangeGossipKeys changes the keys of one node, in use and in its file.
	ChangeGossipKeys = Method[KeyChange, KeyRing]{Name: "gossip.keys.change", Mutating: true}
	// The methods of PKI replace certificate and CA of the node that is asked.
	PKIStatus    = Method[None, Certificates]{Name: "pki.status"}
	PKITrust     = Method[PEM, Certificates]{Name: "pki.trust", Mutating: true}
	PKIRequest   = Method[None, CertRequest]{Name: "pki.request", Mutating: true}
	PKIInstall   = Method[PEM, Certificates]{Name: "pki.install", Mutating: true}
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
	PairMembers  = Method[PairName, MemberList]{Name: "pair.members"}
	PairJoin     = Method[JoinRequest, GroupMember]{Name: "pair.join", Mutating: true}
	PairAdd      = Method[AddRequest, MemberList]{Name: "pair.add", Mutating: true}
	PairRemove   = Method[RemoveRequest, MemberList]{Name: "pair.remove", Mutating: true}
	PairRecover  = Method[RecoverRequest, Recovery]{Name: "pair.recover", Mutating: true}
	BackupList   = Method[PairName, BackupListing]{Name: "backup.list"}
	BackupShow   = Method[BackupQuery, BackupContent]{Name: "backup.show"}
	UpkeepRun    = Method[UpkeepTask, UpkeepJob]{Name: "upkeep.run", Mutating: true}
	UpkeepPoll   = Method[UpkeepQuery, UpkeepJob]{Name: "upkeep.poll"}
	PairRelease  = Method[PairName, GroupStatus]{Name: "pair.release", Mutating: true}
	MailboxList  = Method[MailboxQuery, MailboxListing]{Name: "mailbox.list"}
	MailboxUsage = Method[MailboxQuery, UsageListing]{Name: "mailbox.usage"}
	// MailboxRemove takes an account away with all its mail, for good.
	MailboxRemove = Method[MailboxName, MailboxUsed]{Name: "mailbox.remove", Mutating: true}
	MailboxShow   = Method[MailboxQuery, MailboxDetail]{Name: "mailbox.show"}
	Explain       = Method[ExplainRequest, ExplainResult]{Name: "explain"}
	Finalize      = Method[FinalizeRequest, FormatLevels]{Name: "finalize", Mutating: true}
	Flush         = Method[FlushRequest, FlushResult]{Name: "directory.flush", Mutating: true}
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
	// Connections are those of SMTP, beside Sessions, which are of IMAP and POP3.
	Connections int       `json:"connections,omitempty"`
	CertEnds    time.Time `json:"certificate_ends"`
	Clock       time.Time `json:"clock,omitzero"` // when it gave this answer

	Formats FormatLevels `json:"formats,omitzero"` // nothing from releases before 0.2
}

// FormatLevels are the levels of formats of a node: the newest that its release
// reads and writes, and the one that it writes. For a node with pairs the latter
// is the lowest of theirs.
type FormatLevels struct {
	Known uint32 `json:"known"`
	Used  uint32 `json:"used"`
}

// FinalizeRequest asks a relay, or for a pair its serving replica and then its
// witness, to write on another level from now on. There is no way back. It is
// refused while a node that it concerns runs a release that does not know the
// level.
type FinalizeRequest struct {
	Pair  string `json:"pair,omitempty"`
	Level uint32 `json:"level"`
	Check bool   `json:"check,omitempty"` // only say whether it would be refused
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

	Format   uint32        `json:"format,omitempty"`    // level of the pair, as this member has it
	ID       string        `json:"id,omitempty"`        // of the member
	Members  []GroupMember `json:"members,omitempty"`   // as the replica has them
	Alarms   []string      `json:"alarms,omitempty"`    // what an operator has to know
	Upkeep   *Upkeep       `json:"upkeep,omitempty"`    // of a data replica
	Seeding  *Seeding      `json:"seeding,omitempty"`   // while the member is made anew
	LogLimit int64         `json:"log_limit,omitempty"` // room that the log may take, on a witness
}

// Upkeep is the state of a replica's store.
type Upkeep struct {
	Quarantine string `json:"quarantine,omitempty"` // why the replica does not serve until it is released

	Snapshots int       `json:"snapshots"`
	Snapshot  time.Time `json:"snapshot,omitzero"` // the newest
	Oldest    uint64    `json:"oldest_snapshot"`   // its applied index

	Compacted time.Time `json:"compacted,omitzero"`
	Freed     int64     `json:"freed"` // octets, since the process began
	Dead      int64     `json:"dead"`  // octets that are not worth it yet

	Scrub ScrubStatus `json:"scrub"`

	Compared   uint64    `json:"compared_index"` // of the last comparison of digests
	ComparedAt time.Time `json:"compared,omitzero"`
	Digest     string    `json:"digest,omitempty"` // of this replica there
	Differs    bool      `json:"differs,omitempty"`
}

// ScrubStatus is what the last reading of the whole store has found.
type ScrubStatus struct {
	Begun    time.Time `json:"begun,omitzero"`
	Finished time.Time `json:"finished,omitzero"` // zero while it runs
	Octets   int64     `json:"octets"`
	Messages int64     `json:"messages"`
	Damaged  int64     `json:"damaged"`  // frames of the log
	Repaired int64     `json:"repaired"` // of them
	Lost     int64     `json:"lost"`     // damaged, needed, and not repaired
}

// The tasks of UpkeepTask.
const (
	TaskSnapshot = "snapshot" // make a snapshot
	TaskRemove   = "remove"   // remove one
	TaskVerify   = "verify"   // read one whole
	TaskRestore  = "restore"  // put messages of one back
	TaskCompact  = "compact"
	TaskScrub    = "scrub"
	TaskCheck    = "check" // compare the rows with a replay of the log
)

// UpkeepTask asks a replica to do something that may take long.
type UpkeepTask struct {
	Pair    string   `json:"pair,omitempty"`
	Task    string   `json:"task"`
	Name    string   `json:"name,omitempty"`    // of the snapshot; "" for a new one: by the time
	CopyTo  string   `json:"copy_to,omitempty"` // directory on the node for a copy of a new snapshot
	Restore *Restore `json:"restore,omitempty"`
}

// Restore says which messages of a snapshot go where. They are appended to what
// is there.
type Restore struct {
	Account string   `json:"account"`
	Folder  string   `json:"folder,omitempty"` // "": all of them
	UIDs    []uint32 `json:"uids,omitempty"`   // nil: all of the folder's
	Into    string   `json:"into,omitempty"`   // account; "": the same
	To      string   `json:"to,omitempty"`     // folder; "": below "Restored", under its own name
}

// UpkeepQuery asks for the last task of a kind.
type UpkeepQuery struct {
	Pair string `json:"pair,omitempty"`
	Task string `json:"task,omitempty"` // "": the one that was begun last
}

// UpkeepJob is a task that runs or has ended. A replica does one compaction, one
// scrub and one of the other tasks at a time.
type UpkeepJob struct {
	Pair   string    `json:"pair"`
	Node   string    `json:"node"`
	Task   string    `json:"task"`
	State  string    `json:"state"` // "", running, done, failed
	Began  time.Time `json:"began,omitzero"`
	Ended  time.Time `json:"ended,omitzero"`
	Done   int64     `json:"done,omitempty"` // messages or segments so far
	Result string    `json:"result,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// BackupListing lists the snapshots of a replica, the oldest first.
type BackupListing struct {
	Pair      string   `json:"pair"`
	Node      string   `json:"node"`
	Snapshots []Backup `json:"snapshots"`
}

// Backup is one snapshot.
type Backup struct {
	Name     string    `json:"name"`
	Dir      string    `json:"dir"` // on the node
	Created  time.Time `json:"created"`
	Kept     bool      `json:"kept,omitempty"` // made by hand
	Applied  uint64    `json:"applied_index"`
	Last     uint64    `json:"last_index"`
	Messages uint64    `json:"messages"`
	Bytes    uint64    `json:"bytes"`
	Digest   string    `json:"digest"`
}

// BackupQuery asks what a snapshot holds of an account.
type BackupQuery struct {
	Pair    string `json:"pair,omitempty"`
	Name    string `json:"name"`
	Account string `json:"account"`
	Folder  string `json:"folder,omitempty"` // "": the folders only
	After   uint32 `json:"after,omitempty"`  // UID
	Limit   int    `json:"limit,omitempty"`  // 0 is 1,000
}

// BackupContent is what a snapshot holds of an account.
type BackupContent struct {
	Mailboxes []Mailbox       `json:"mailboxes,omitempty"`
	Messages  []BackupMessage `json:"messages,omitempty"`
	More      bool            `json:"more,omitempty"`
}

// BackupMessage is one message of a snapshot.
type BackupMessage struct {
	UID      uint32    `json:"uid"`
	Received time.Time `json:"received"`
	Size     int64     `json:"size"`
	From     string    `json:"from,omitempty"`
	Subject  string    `json:"subject,omitempty"`
}

// Seeding is how far a member is that fetches its content from another one.
type Seeding struct {
	Stage   string    `json:"stage"` // waiting, fetching, checking
	From    string    `json:"from,omitempty"`
	Bytes   int64     `json:"bytes"`
	Total   int64     `json:"total"`
	Files   int       `json:"files"`
	Applied uint64    `json:"applied_index"`   // of the state that is fetched
	Error   string    `json:"error,omitempty"` // of the last attempt
	Began   time.Time `json:"began,omitzero"`
}

// GroupMember is a member of a pair's group. Those without a vote are being
// brought up to date.
type GroupMember struct {
	ID      string `json:"id"`
	Node    string `json:"node"`
	Addr    string `json:"addr"`
	Witness bool   `json:"witness,omitempty"`
	Voter   bool   `json:"voter,omitempty"`

	// What it said when it was asked.
	Alive   bool   `json:"alive,omitempty"`
	Leads   bool   `json:"leads,omitempty"`
	Applied uint64 `json:"applied_index,omitempty"`
	Lag     uint64 `json:"lag,omitempty"`
}

// MemberList is a pair's group, as one node has it.
type MemberList struct {
	Pair    string        `json:"pair"`
	Node    string        `json:"node"`
	Serving bool          `json:"serving"`
	Members []GroupMember `json:"members"`
}

// JoinRequest makes a node's directory of a pair's member anew, under a new id.
// Members are those of the group now: one that is among them is not replaced.
type JoinRequest struct {
	Pair    string        `json:"pair"`
	Members []GroupMember `json:"members"`
}

// AddRequest adds a member that has been made by a JoinRequest. The serving
// replica takes it.
type AddRequest struct {
	Pair   string      `json:"pair"`
	Member GroupMember `json:"member"`
}

// RemoveRequest takes a member out of a group, by its id. The serving replica
// takes it.
type RemoveRequest struct {
	Pair    string `json:"pair"`
	ID      string `json:"id"`
	Dead    bool   `json:"dead,omitempty"`     // it must not answer
	OneCopy bool   `json:"one_copy,omitempty"` // one data copy may be left
}

// RecoverRequest makes a group one of the asked node's replica alone, if Accept
// is set, and else says what that would mean.
type RecoverRequest struct {
	Pair   string `json:"pair"`
	Accept bool   `json:"accept_loss,omitempty"`
}

// Recovery is what a surviving replica knows. Entries above Known may or may not
// have been acknowledged; what only the lost members had is not known at all.
type Recovery struct {
	Pair    string        `json:"pair"`
	Node    string        `json:"node"`
	Term    uint64        `json:"term"`
	Known   uint64        `json:"known_committed"`
	Last    uint64        `json:"last_index"`
	Members []GroupMember `json:"members"`
	Alone   bool          `json:"alone"` // the group is this replica alone
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
	Formats  FormatLevels      `json:"formats,omitzero"`
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
	Values   map[string]any `json:"values"`
	File     string         `json:"file,omitempty"`     // "" from releases before 0.2
	Settings []Setting      `json:"settings,omitempty"` // the same
}

// Setting is one option in use and where it comes from.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // "default", "FILE:LINE", "environment NAME" or "flag --NAME"
	Reload bool   `json:"reload"` // a change takes effect at a reload
}

// ConfigText is the text of a configuration file, and a name for it.
type ConfigText struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// ConfigDifferences are the options in which a text differs from what is in use.
type ConfigDifferences struct {
	Differences []ConfigDifference `json:"differences"`
}

// ConfigDifference is one of them. Old is in use, New is in the text; either is
// empty where an object of a list is in one of them only. Secrets are "***" on
// both sides.
type ConfigDifference struct {
	Name      string `json:"name"`
	Old       string `json:"old"`
	New       string `json:"new"`
	OldSource string `json:"old_source,omitempty"`
	NewSource string `json:"new_source,omitempty"`
	Reload    bool   `json:"reload"`
}

// KeyRing names the keys of gossip that a node uses: the first one encrypts, all
// of them decrypt. A name is a part of a hash.
type KeyRing struct {
	File string   `json:"file"`
	Keys []string `json:"keys"`
}

// KeyChange adds a key ("add", Key), encrypts with one that is known ("use", ID)
// or forgets one ("remove", ID). What is so already is no error.
type KeyChange struct {
	Op  string `json:"op"`
	ID  string `json:"id,omitempty"`
	Key Hidden `json:"key,omitempty"` // base64
}

// Certificates are what a node shows to others and whom it trusts, in DER.
type Certificates struct {
	Cert []byte   `json:"cert"`
	CAs  [][]byte `json:"cas"`
}

// CertRequest is a request for a certificate (PKCS #10, DER), of a new key that
// stays on the node.
type CertRequest struct {
	Request []byte `json:"request"`
}

// PEM is a certificate with those that lead to its CA, or CAs.
type PEM struct {
	Text Hidden `json:"text"`
}

// Hidden is text that is sent and never logged.
type Hidden string

// Format hides the text from every verb.
func (h Hidden) Format(f fmt.State, _ rune) { fmt.Fprint(f, "***") }

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

// MailboxName names an account of a pair.
type MailboxName struct {
	Pair    string `json:"pair,omitempty"`
	Account string `json:"account"`
}

// UsageListing is what accounts hold, in the order of their names.
type UsageListing struct {
	Accounts []MailboxUsed `json:"accounts"`
	More     bool          `json:"more,omitempty"`
}

// MailboxUsed is what an account holds, and may hold.
type MailboxUsed struct {
	Account      string `json:"account"`
	UsedBytes    int64  `json:"used_bytes"`
	UsedMessages int64  `json:"used_messages"`
	LimitBytes   int64  `json:"limit_bytes"` // -1: none
	LimitMsgs    int64  `json:"limit_messages"`
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
	Post        []string `json:"post,omitempty"` // who may post to it by its address, beside the owner; with "-" who may not
}

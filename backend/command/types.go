package command

// HashSize is the length of a body hash: the first octets of SHA-256 over the
// stored octets. It names a body; a prefix of 128 bits is beyond search.
const HashSize = 16

// Hash is a body hash.
type Hash [HashSize]byte

// Key is a delivery key; the zero Key is none.
type Key [16]byte

// Extent is a run of octets in an entry of the log.
type Extent struct {
	Index uint64 // of the entry; 0 is the entry that says so
	Off   uint32 // into the entry; for Index 0, into its tail
	Len   uint32
}

// Message is a message that a command brings in.
type Message struct {
	// ID is 0 for a new message. Another value names the message that an
	// earlier entry of the same delivery brought in; Body is then its address
	// in the log, should the earlier entry have had no taker for it.
	ID   uint64
	Size int64
	Hash Hash
	Meta []byte // the message's structure and envelope, as package message writes it
	Body []Extent
}

// Recipient is one mailbox of a delivery.
type Recipient struct {
	Account  string
	Folder   string   // "" is INBOX
	Poster   []string // identities of who posts to Folder; nil: nobody who is known; since version 4
	Create   bool     // make Folder when it is missing, else fall back to INBOX
	Force    bool     // ignore the quota
	Key      Key
	Flags    uint64 // system flags
	Keywords []string
	Limit    *Limit // what the directory says of the account's quota, nil: nothing

	Autoreply *Autoreply // whether the message is to be answered, nil: nobody asks
}

// Autoreply asks whether the sender of a delivery is to get the account's
// answer, or claims the answer for whoever is about to send it.
//
// With Later the answer stays due, for this delivery and others, until it is
// claimed. Without, asking and noting are one: who is answered is not answered
// again within the time.
type Autoreply struct {
	Hash    Hash   // of sender, subject and text of the answer
	Seconds uint32 // least time between two answers, 0: every message is answered
	Only    bool   // the message is not stored
	Later   bool   // since version 3
	By      Key    // claims, with Only and without Later; the zero Key asks; since version 3
}

// Limit is an account's quota; -1 is without limit.
type Limit struct {
	Bytes    int64
	Messages int64
	Stamp    string // change stamp of the directory entry: an older one never overwrites
}

// Part carries up to MaxPart octets of a large message, as its tail.
type Part struct {
	Head
}

// Deliver adds one message to the mailboxes of its recipients.
type Deliver struct {
	Head
	Seed         uint32 // UIDVALIDITY to begin with in accounts that this makes
	KeyLife      int64  // nanoseconds that the keys are remembered
	InternalDate int64  // Unix nanoseconds
	Message      Message
	Recipients   []Recipient

	// Compact: the entry has the form of version 3, which names each domain of
	// the recipients once. For pairs on level 2.
	Compact bool
	// Owners: a mailbox without a list of rights takes only what its owner posts;
	// else it takes everything. In the compact form, since version 4.
	Owners bool
}

// AppendMessages adds messages to one mailbox, all or none.
type AppendMessages struct {
	Head
	Account  uint64
	Name     string
	Messages []Appended
}

// Appended is one message of AppendMessages.
type Appended struct {
	Message      Message
	InternalDate int64  // Unix nanoseconds
	Flags        uint64 // system flags
	Keywords     []string
}

// Account makes the account when it is missing.
type Account struct {
	Head
	Name string
	Seed uint32 // UIDVALIDITY to begin with
}

// Create makes a mailbox.
type Create struct {
	Head
	Account    uint64
	Name       string
	SpecialUse Use
}

// Use is what a mailbox is for (RFC 6154), as bits.
type Use uint32

// The uses that a stored mailbox can have.
const (
	UseArchive Use = 1 << iota
	UseDrafts
	UseJunk
	UseSent
	UseTrash
	UseImportant // RFC 8457
)

// Delete removes a mailbox with at most Limit messages.
type Delete struct {
	Head
	Account uint64
	Name    string
	Limit   uint32
}

// Remove takes an account away with all that belongs to it, if its mailboxes
// have at most Limit messages together. An account of that name can be made
// again, and is another one. For pairs on level 2.
type Remove struct {
	Head
	Account uint64
	Limit   uint32
}

// Rename renames a mailbox and its children. For INBOX it makes the new
// mailbox only: its messages follow by Copy.
type Rename struct {
	Head
	Account  uint64
	From, To string
}

// Subscribe adds a name to the account's subscriptions, or removes it.
type Subscribe struct {
	Head
	Account uint64
	Name    string
	On      bool
}

// StoreOp is what Store does with the flags it names.
type StoreOp byte

// The forms of Store.
const (
	StoreReplace StoreOp = 0
	StoreAdd     StoreOp = 1
	StoreRemove  StoreOp = 2
)

// Store changes flags.
type Store struct {
	Head
	Account, Mailbox uint64
	UIDs             UIDSet
	Action           StoreOp
	Flags            uint64 // system flags
	Keywords         []string
	Conditional      bool   // leave alone what has a MODSEQ above Unchanged
	Unchanged        uint64 // RFC 7162 3.1.3
}

// Expunge removes messages: those with \Deleted, or with Force all of UIDs.
type Expunge struct {
	Head
	Account, Mailbox uint64
	UIDs             UIDSet
	Force            bool
}

// Copy adds the messages to the mailbox called To of the same account, and
// with Move takes them out of where they are.
type Copy struct {
	Head
	Account, Mailbox uint64
	UIDs             UIDSet
	To               string
	Move             bool
}

// Quota sets what the directory says of an account's quota.
type Quota struct {
	Head
	Account string
	Seed    uint32 // UIDVALIDITY to begin with when the account is made
	Limit   Limit
}

// Digest asks each replica to note the digest of its state at this entry. It
// may carry what the replica that proposed it noted at the one before.
type Digest struct {
	Head
	MarkIndex uint64 // of the entry before, 0: nothing is carried
	Mark      [16]byte
}

// Op is the operation.
func (*Part) Op() Op { return OpPart }

// Op is the operation.
func (*Deliver) Op() Op { return OpDeliver }

// Op is the operation.
func (*AppendMessages) Op() Op { return OpAppend }

// Op is the operation.
func (*Account) Op() Op { return OpAccount }

// Op is the operation.
func (*Create) Op() Op { return OpCreate }

// Op is the operation.
func (*Delete) Op() Op { return OpDelete }

// Op is the operation.
func (*Rename) Op() Op { return OpRename }

// Op is the operation.
func (*Subscribe) Op() Op { return OpSubscribe }

// Op is the operation.
func (*Store) Op() Op { return OpStore }

// Op is the operation.
func (*Expunge) Op() Op { return OpExpunge }

// Op is the operation.
func (*Copy) Op() Op { return OpCopy }

// Op is the operation.
func (*Quota) Op() Op { return OpQuota }

// Op is the operation.
func (*Digest) Op() Op { return OpDigest }

// Op is the operation.
func (*Format) Op() Op { return OpFormat }

// Op is the operation.
func (*Remove) Op() Op { return OpRemove }

// Format raises the level of the pair: from this entry on, replicas may be asked
// to apply what the level allows.
type Format struct {
	Head
	Level uint32
}

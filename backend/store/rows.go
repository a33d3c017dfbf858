package store

// Extent is a run of octets in an entry of the log.
type Extent struct {
	Index uint64
	Off   uint32 // into the entry's data
	Len   uint32
}

// HashSize is the length of a body hash.
const HashSize = 16

// KeySize is the length of a delivery key.
const KeySize = 16

// Message is a stored message. It never changes; how many mailbox rows refer
// to it is kept beside it.
type Message struct {
	ID   uint64
	Refs uint32 // references when it was stored
	Size int64
	Hash [HashSize]byte
	Body []Extent
	Meta []byte // structure and envelope, as package message writes them
}

// Row is one message of a mailbox.
type Row struct {
	UID          uint32
	Flags        uint64
	ModSeq       uint64
	Created      uint64 // MODSEQ with which it came into the mailbox
	InternalDate int64  // Unix nanoseconds
	SaveDate     int64  // Unix nanoseconds
	Size         int64
	MessageID    uint64
}

// Account is one user's account.
type Account struct {
	ID          uint64
	Name        string
	UIDValidity uint32 // given last to a mailbox; the next gets one more
	LimitBytes  int64  // -1: no limit
	LimitCount  int64
	LimitStamp  string // change stamp of the directory entry

	sum Sum // of the row as it stands in the store
}

// Mailbox is what seldom changes of a mailbox.
type Mailbox struct {
	ID          uint64
	Account     uint64
	Name        string
	UIDValidity uint32
	SpecialUse  uint32 // bits, their meaning is package mailbox's and fsm's
	Keywords    []string

	sum Sum
}

// Counters is what changes with every message of a mailbox.
type Counters struct {
	UIDNext  uint32
	ModSeq   uint64 // HIGHESTMODSEQ
	Floor    uint64 // the journal is complete above this MODSEQ
	Messages uint32
	Unseen   uint32
	Deleted  uint32
	Size     int64
	Rows     Sum // digest of the mailbox's rows

	sum Sum
}

// Delivered is what became of a delivery key.
type Delivered struct {
	Hash        [HashSize]byte
	Mailbox     uint64
	UIDValidity uint32
	UID         uint32
	Fallback    bool   // it went to INBOX because the folder was missing
	Answer      bool   // the message was to be answered
	Account     uint64 // whose it was; 0 where the pair's format did not have it yet
}

// State is what the store has of itself.
type State struct {
	Applied  uint64 // index of the last entry whose effect is in the store
	Term     uint64 // of that entry
	Clock    int64  // Unix nanoseconds, from the entries, never goes back
	NextID   uint64 // of accounts and mailboxes
	Digest   Sum
	Messages uint64 // stored messages, each counted once
	Bytes    uint64 // their octets

	// The last Digest command and the digest that was there.
	MarkIndex  uint64
	MarkDigest Sum

	Format uint32 // level of the pair's format, 0 before the first was decided; a row of its own
}

func (m *Message) encode(b []byte) []byte {
	b = putUint(b, uint64(m.Refs))
	b = putUint(b, uint64(m.Size))
	b = append(b, m.Hash[:]...)
	b = putUint(b, uint64(len(m.Body)))
	for _, e := range m.Body {
		b = putUint(b, e.Index)
		b = putUint(b, uint64(e.Off))
		b = putUint(b, uint64(e.Len))
	}
	return append(b, m.Meta...)
}

// decode reads a message row. Meta refers to v.
func (m *Message) decode(v []byte) error {
	r := fields{b: v}
	m.Refs, m.Size = r.uint32(), r.int()
	copy(m.Hash[:], r.take(HashSize))
	n := r.uint()
	if n > uint64(len(r.b))/3 {
		return errRow
	}
	m.Body = m.Body[:0]
	for range n {
		m.Body = append(m.Body, Extent{Index: r.uint(), Off: r.uint32(), Len: r.uint32()})
	}
	m.Meta = r.b
	return r.err
}

func (w *Row) encode(b []byte) []byte {
	b = putUint(b, w.Flags)
	b = putUint(b, w.ModSeq)
	b = putUint(b, w.ModSeq-w.Created)
	b = putUint(b, w.MessageID)
	b = putUint(b, uint64(w.Size))
	b = putSigned(b, w.InternalDate)
	return putSigned(b, w.SaveDate-w.InternalDate)
}

func (w *Row) decode(uid uint32, v []byte) error {
	r := fields{b: v}
	w.UID = uid
	w.Flags, w.ModSeq = r.uint(), r.uint()
	w.Created = w.ModSeq - r.uint()
	w.MessageID, w.Size = r.uint(), r.int()
	w.InternalDate = r.signed()
	w.SaveDate = w.InternalDate + r.signed()
	return r.end()
}

func (a *Account) encode(b []byte) []byte {
	b = putUint(b, uint64(a.UIDValidity))
	b = putSigned(b, a.LimitBytes)
	b = putSigned(b, a.LimitCount)
	b = putString(b, a.LimitStamp)
	return append(b, a.Name...)
}

func (a *Account) decode(id uint64, v []byte) error {
	r := fields{b: v}
	a.ID = id
	a.UIDValidity = r.uint32()
	a.LimitBytes, a.LimitCount = r.signed(), r.signed()
	a.LimitStamp = r.string()
	a.Name = string(r.b)
	return r.err
}

func (m *Mailbox) encode(b []byte) []byte {
	b = putUint(b, uint64(m.UIDValidity))
	b = putUint(b, uint64(m.SpecialUse))
	b = putString(b, m.Name)
	for _, k := range m.Keywords {
		b = putString(b, k)
	}
	return b
}

func (m *Mailbox) decode(account, id uint64, v []byte) error {
	r := fields{b: v}
	m.ID, m.Account = id, account
	m.UIDValidity, m.SpecialUse = r.uint32(), r.uint32()
	m.Name = r.string()
	m.Keywords = nil
	for len(r.b) > 0 {
		m.Keywords = append(m.Keywords, r.string())
	}
	return r.err
}

func (c *Counters) encode(b []byte) []byte {
	b = putUint(b, uint64(c.UIDNext))
	b = putUint(b, c.ModSeq)
	b = putUint(b, c.Floor)
	b = putUint(b, uint64(c.Messages))
	b = putUint(b, uint64(c.Unseen))
	b = putUint(b, uint64(c.Deleted))
	b = putUint(b, uint64(c.Size))
	return c.Rows.append(b)
}

func (c *Counters) decode(v []byte) error {
	r := fields{b: v}
	c.UIDNext, c.ModSeq, c.Floor = r.uint32(), r.uint(), r.uint()
	c.Messages, c.Unseen, c.Deleted, c.Size = r.uint32(), r.uint32(), r.uint32(), r.int()
	c.Rows = r.sum()
	return r.end()
}

// Bits at the end of a Delivered row.
const (
	deliveredFallback = 1 << iota
	deliveredAnswer
)

func (d *Delivered) encode(b []byte) []byte {
	b = append(b, d.Hash[:]...)
	b = putUint(b, d.Mailbox)
	b = putUint(b, uint64(d.UIDValidity))
	b = putUint(b, uint64(d.UID))
	var bits byte
	if d.Fallback {
		bits |= deliveredFallback
	}
	if d.Answer {
		bits |= deliveredAnswer
	}
	b = append(b, bits)
	if d.Account != 0 {
		b = putUint(b, d.Account)
	}
	return b
}

func (d *Delivered) decode(v []byte) error {
	r := fields{b: v}
	copy(d.Hash[:], r.take(HashSize))
	d.Mailbox, d.UIDValidity, d.UID = r.uint(), r.uint32(), r.uint32()
	bits := r.uint()
	d.Fallback, d.Answer = bits&deliveredFallback != 0, bits&deliveredAnswer != 0
	if d.Account = 0; len(r.b) > 0 {
		d.Account = r.uint()
	}
	return r.end()
}

func (s *State) encode(b []byte) []byte {
	b = putUint(b, s.Applied)
	b = putUint(b, s.Term)
	b = putSigned(b, s.Clock)
	b = putUint(b, s.NextID)
	b = s.Digest.append(b)
	b = putUint(b, s.Messages)
	b = putUint(b, s.Bytes)
	b = putUint(b, s.MarkIndex)
	return s.MarkDigest.append(b)
}

func (s *State) decode(v []byte) error {
	r := fields{b: v}
	s.Applied, s.Term, s.Clock, s.NextID = r.uint(), r.uint(), r.signed(), r.uint()
	s.Digest, s.Messages, s.Bytes = r.sum(), r.uint(), r.uint()
	s.MarkIndex, s.MarkDigest = r.uint(), r.sum()
	return r.end()
}

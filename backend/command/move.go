package command

// MoveStep is a step of an account on its way to another pair.
type MoveStep byte

// The steps, of the pair that has the account and of the one that gets it.
const (
	MoveAnnounce MoveStep = 1 // here: it is being copied; whoever announced before is out
	MoveFence    MoveStep = 2 // here: nothing changes in it any more, for a while
	MoveStay     MoveStep = 3 // here: it stays after all
	MoveGone     MoveStep = 4 // here: it is at Peer now
	MoveArrive   MoveStep = 5 // there: it is being filled
	MoveOpen     MoveStep = 6 // there: it is whole, and open
	MoveDrop     MoveStep = 7 // both: take away what is not open, at most Limit messages an entry
)

// Move takes one step of a move. Token is that of the one who moves the account:
// a step whose token is not the one announced is refused. For pairs on level 2.
type Move struct {
	Head
	Step    MoveStep
	Account string
	Peer    string // the other pair, for Announce and Arrive
	Token   Key
	Limit   uint32 // for Drop
}

// Import fills an account that arrives with what it was in the other pair. A
// mailbox is known by its UIDVALIDITY, which an account uses once. Repeating an
// Import changes nothing. For pairs on level 2.
type Import struct {
	Head
	Account string
	Token   Key

	Self    *ImportSelf    // nil: nothing of the account itself
	Mailbox *ImportMailbox // nil: no mailbox
	// Rows are all messages of Mailbox from UID First to UID Last, ascending:
	// others there are taken away.
	First, Last uint32
	Rows        []ImportRow

	Keys     []ImportKey
	KeyLife  int64 // nanoseconds that they are remembered from now
	Answered []ImportAnswered
}

// ImportSelf is an account without its messages, whole.
type ImportSelf struct {
	UIDValidity   uint32 // given last
	Limit         Limit
	Mailboxes     []uint32 // UIDVALIDITY of each: others are taken away
	Subscriptions []string
}

// ImportMailbox is a mailbox without its messages.
type ImportMailbox struct {
	Name        string
	UIDValidity uint32
	UIDNext     uint32
	ModSeq      uint64
	SpecialUse  Use
	Keywords    []string // in the order of their bits
	Listed      bool     // it has the list of rights Grants; since version 4
	Grants      []Grant
}

// ImportRow is a message of a mailbox. Without a Message it is there already, and
// only what may change is given.
type ImportRow struct {
	UID          uint32
	Flags        uint64 // system flags and keywords, as bits
	ModSeq       uint64
	Created      uint64
	InternalDate int64
	SaveDate     int64
	Message      *Message
}

// ImportKey is what became of a delivery key.
type ImportKey struct {
	Key         Key
	Hash        Hash
	Mailbox     uint32 // UIDVALIDITY of the mailbox it went to, 0: none that is left
	UIDValidity uint32
	UID         uint32
	Answer      bool
}

// ImportAnswered is what the account remembers of a sender that it has answered.
type ImportAnswered struct {
	Hash  Hash
	Until int64 // Unix nanoseconds
	Open  bool
	By    Key
}

// Limits of an Import.
const (
	MaxImportRows = 20_000
	MaxImportKeys = 20_000
	maxImportList = 10_000 // mailboxes, subscriptions
)

// Op is the operation.
func (*Move) Op() Op { return OpMove }

// Op is the operation.
func (*Import) Op() Op { return OpImport }

func (c *Move) appendFields(b []byte) []byte {
	b = append(b, byte(c.Step))
	b = appendString(b, c.Account)
	b = appendString(b, c.Peer)
	b = append(b, c.Token[:]...)
	return appendUint(b, uint64(c.Limit))
}

func (c *Move) readFields(r *reader) {
	c.Step = MoveStep(r.byte())
	if c.Step < MoveAnnounce || c.Step > MoveDrop {
		r.fail("step of a move")
	}
	c.Account, c.Peer = r.string(), r.string()
	copy(c.Token[:], r.take(uint64(len(c.Token))))
	c.Limit = r.uint32()
}

func (c *Import) appendFields(b []byte) []byte {
	b = appendString(b, c.Account)
	b = append(b, c.Token[:]...)
	b = appendBool(b, c.Self != nil)
	if s := c.Self; s != nil {
		b = appendUint(b, uint64(s.UIDValidity))
		b = appendLimit(b, &s.Limit)
		b = appendUint(b, uint64(len(s.Mailboxes)))
		for _, v := range s.Mailboxes {
			b = appendUint(b, uint64(v))
		}
		b = appendStrings(b, s.Subscriptions)
	}
	b = appendBool(b, c.Mailbox != nil)
	if c.Mailbox != nil {
		b = c.appendMailbox(b)
	}
	b = appendInt(b, c.KeyLife)
	b = appendUint(b, uint64(len(c.Keys)))
	for i := range c.Keys {
		k := &c.Keys[i]
		b = append(append(b, k.Key[:]...), k.Hash[:]...)
		b = appendUint(b, uint64(k.Mailbox))
		b = appendUint(b, uint64(k.UIDValidity))
		b = appendUint(b, uint64(k.UID))
		b = appendBool(b, k.Answer)
	}
	b = appendUint(b, uint64(len(c.Answered)))
	for i := range c.Answered {
		a := &c.Answered[i]
		b = appendInt(append(b, a.Hash[:]...), a.Until)
		b = append(appendBool(b, a.Open), a.By[:]...)
	}
	return b
}

func (c *Import) appendMailbox(b []byte) []byte {
	m := c.Mailbox
	b = appendString(b, m.Name)
	b = appendUint(b, uint64(m.UIDValidity))
	b = appendUint(b, uint64(m.UIDNext))
	b = appendUint(b, m.ModSeq)
	b = appendUint(b, uint64(m.SpecialUse))
	b = appendStrings(b, m.Keywords)
	if m.Listed {
		b = appendGrants(b, m.Grants)
	}
	b = appendUint(b, uint64(c.First))
	b = appendUint(b, uint64(c.Last))
	b = appendUint(b, uint64(len(c.Rows)))
	for i := range c.Rows {
		w := &c.Rows[i]
		b = appendUint(b, uint64(w.UID))
		b = appendUint(b, w.Flags)
		b = appendUint(b, w.ModSeq)
		b = appendUint(b, w.Created)
		b = appendInt(b, w.InternalDate)
		b = appendInt(b, w.SaveDate)
		b = appendBool(b, w.Message != nil)
		if w.Message != nil {
			b = appendMessage(b, w.Message)
		}
	}
	return b
}

func (c *Import) readFields(r *reader) {
	c.Account = r.string()
	copy(c.Token[:], r.take(uint64(len(c.Token))))
	if r.bool() {
		s := new(ImportSelf)
		c.Self = s
		s.UIDValidity = r.uint32()
		r.limit(&s.Limit)
		if n := r.count(maxImportList, 1); n > 0 {
			s.Mailboxes = make([]uint32, n)
			for i := range s.Mailboxes {
				s.Mailboxes[i] = r.uint32()
			}
		}
		s.Subscriptions = r.strings(maxImportList)
	}
	if r.bool() {
		if c.readMailbox(r); c.Self != nil { // one could take away what the other brings
			r.fail("account and mailbox in one entry")
		}
	}
	c.KeyLife = r.int()
	if n := r.count(MaxImportKeys, 2*HashSize+4); n > 0 {
		c.Keys = make([]ImportKey, n)
	}
	for i := range c.Keys {
		k := &c.Keys[i]
		copy(k.Key[:], r.take(uint64(len(k.Key))))
		copy(k.Hash[:], r.take(HashSize))
		k.Mailbox, k.UIDValidity, k.UID, k.Answer = r.uint32(), r.uint32(), r.uint32(), r.bool()
	}
	if n := r.count(MaxImportKeys, 2*HashSize+2); n > 0 {
		c.Answered = make([]ImportAnswered, n)
	}
	for i := range c.Answered {
		a := &c.Answered[i]
		copy(a.Hash[:], r.take(HashSize))
		a.Until, a.Open = r.int(), r.bool()
		copy(a.By[:], r.take(uint64(len(a.By))))
	}
}

func (c *Import) readMailbox(r *reader) {
	m := new(ImportMailbox)
	c.Mailbox = m
	m.Name, m.UIDValidity, m.UIDNext, m.ModSeq = r.string(), r.uint32(), r.uint32(), r.uint()
	m.SpecialUse, m.Keywords = Use(r.uint32()), r.strings(MaxKeywords)
	if m.Listed = r.version >= Version; m.Listed {
		m.Grants = r.grants()
	}
	c.First, c.Last = r.uint32(), r.uint32()
	n := r.count(MaxImportRows, 7)
	if n == 0 {
		return
	}
	c.Rows = make([]ImportRow, n)
	brought, last := 0, uint32(0)
	for i := range c.Rows {
		w := &c.Rows[i]
		w.UID, w.Flags, w.ModSeq, w.Created = r.uint32(), r.uint(), r.uint(), r.uint()
		w.InternalDate, w.SaveDate = r.int(), r.int()
		if w.UID <= last || w.UID < c.First || w.UID > c.Last || w.UID >= m.UIDNext || w.ModSeq > m.ModSeq || w.Created > w.ModSeq {
			r.fail("message of a mailbox")
		}
		last = w.UID
		if r.bool() {
			w.Message = new(Message)
			r.message(w.Message)
			brought++
		}
		if r.err != nil {
			return
		}
	}
	if brought > MaxMessages {
		r.fail("too many messages")
	}
}

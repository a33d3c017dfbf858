package command

import (
	"encoding/binary"
	"errors"
	"slices"
)

// reader takes fields off the front of an entry. After the first failure it
// returns zero values, and err says what was wrong.
type reader struct {
	b       []byte
	err     error
	version byte // of the entry
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = errors.New(what)
	}
	r.b = nil
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 { // the shortest form only
		r.fail("integer")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 {
	u := r.uint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uint()
	if v > 1<<32-1 {
		r.fail("integer above 32 bits")
		return 0
	}
	return uint32(v)
}

// size reads a length or a date that fits an int64 and is not negative.
func (r *reader) size() int64 {
	v := r.uint()
	if v > 1<<62 {
		r.fail("size")
		return 0
	}
	return int64(v)
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail("end of entry")
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) bool() bool {
	v := r.byte()
	if v > 1 {
		r.fail("boolean")
	}
	return v == 1
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("end of entry")
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	if v := r.take(r.uint()); len(v) > 0 {
		return v
	}
	return nil
}

func (r *reader) string() string { return string(r.take(r.uint())) }

// count reads a number of elements of at least min octets each.
func (r *reader) count(limit, min int) int {
	n := r.uint()
	if n > uint64(limit) || n*uint64(min) > uint64(len(r.b)) {
		r.fail("too many elements")
		return 0
	}
	return int(n)
}

func (r *reader) strings(limit int) []string {
	n := r.count(limit, 1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.string()
	}
	return list
}

func (r *reader) message(m *Message) {
	m.ID = r.uint()
	m.Size = r.size()
	copy(m.Hash[:], r.take(HashSize))
	m.Meta = r.bytes()
	n := r.count(MaxExtents, 3)
	if n == 0 {
		return
	}
	m.Body = make([]Extent, n)
	for i := range m.Body {
		m.Body[i] = Extent{Index: r.uint(), Off: r.uint32(), Len: r.uint32()}
	}
}

func (r *reader) limit(l *Limit) {
	l.Bytes, l.Messages, l.Stamp = r.int(), r.int(), r.string()
}

func (r *reader) recipient(rc *Recipient, names domains) {
	bits := r.byte()
	limit := 0x100
	switch r.version {
	case versionOldest:
		limit = rcptAutoreply
	case versionAsks:
		limit = rcptClaim
	}
	if int(bits) >= limit || bits&(rcptOnly|rcptClaim) != 0 && bits&rcptAutoreply == 0 {
		r.fail("recipient")
		return
	}
	rc.Create, rc.Force = bits&rcptCreate != 0, bits&rcptForce != 0
	if r.version < versionCompact {
		rc.Account = r.string()
	} else {
		rc.Account = names.read(r)
	}
	rc.Folder = r.string()
	if r.version >= Version && rc.Folder != "" {
		rc.Poster = r.strings(MaxPosters)
	}
	if bits&rcptKey != 0 {
		copy(rc.Key[:], r.take(uint64(len(rc.Key))))
		if rc.Key == (Key{}) {
			r.fail("delivery key of zeros")
		}
	}
	if bits&rcptLimit != 0 {
		rc.Limit = new(Limit)
		r.limit(rc.Limit)
	}
	if bits&rcptFlags != 0 {
		rc.Flags, rc.Keywords = r.uint(), r.strings(MaxKeywords)
		if rc.Flags == 0 && len(rc.Keywords) == 0 {
			r.fail("recipient's flags")
		}
	}
	if bits&rcptAutoreply != 0 {
		rc.Autoreply = &Autoreply{Only: bits&rcptOnly != 0}
		copy(rc.Autoreply.Hash[:], r.take(HashSize))
		rc.Autoreply.Seconds = r.uint32()
		if bits&rcptClaim != 0 {
			copy(rc.Autoreply.By[:], r.take(uint64(len(rc.Autoreply.By))))
			if rc.Autoreply.Later = rc.Autoreply.By == (Key{}); !rc.Autoreply.Later && !rc.Autoreply.Only {
				r.fail("claim of an answer")
			}
		}
	}
}

func (*Part) readFields(*reader) {}

func (c *Deliver) readFields(r *reader) {
	c.Seed, c.KeyLife, c.InternalDate = r.uint32(), r.int(), r.int()
	r.message(&c.Message)
	var names domains
	if c.Compact = r.version >= versionCompact; c.Compact {
		names = r.domains()
	}
	if r.version >= Version {
		c.Owners = r.bool()
	}
	n := r.count(MaxRecipients, 3)
	if n == 0 {
		if len(names) > 0 {
			r.fail("domains without recipients")
		}
		return
	}
	c.Recipients = make([]Recipient, n)
	for i := range c.Recipients {
		r.recipient(&c.Recipients[i], names)
	}
	if c.Compact && r.err == nil && !slices.Equal(names, domainsOf(c.Recipients)) {
		r.fail("domains")
	}
}

func (c *Format) readFields(r *reader) {
	if c.Level = r.uint32(); c.Level < 2 {
		r.fail("level")
	}
}

func (c *Remove) readFields(r *reader) { c.Account, c.Limit = r.uint(), r.uint32() }

func (c *AppendMessages) readFields(r *reader) {
	c.Account, c.Name = r.uint(), r.string()
	n := r.count(MaxMessages, 4+HashSize)
	if n == 0 {
		return
	}
	c.Messages = make([]Appended, n)
	for i := range c.Messages {
		m := &c.Messages[i]
		r.message(&m.Message)
		m.InternalDate, m.Flags, m.Keywords = r.int(), r.uint(), r.strings(MaxKeywords)
	}
}

func (c *Account) readFields(r *reader) { c.Name, c.Seed = r.string(), r.uint32() }

func (c *Create) readFields(r *reader) {
	c.Account, c.Name, c.SpecialUse = r.uint(), r.string(), Use(r.uint32())
}

func (c *Delete) readFields(r *reader) {
	c.Account, c.Name, c.Limit = r.uint(), r.string(), r.uint32()
}

func (c *Rename) readFields(r *reader) { c.Account, c.From, c.To = r.uint(), r.string(), r.string() }

func (c *Subscribe) readFields(r *reader) {
	c.Account, c.Name, c.On = r.uint(), r.string(), r.bool()
}

func (c *Store) readFields(r *reader) {
	c.Account, c.Mailbox, c.UIDs = r.uint(), r.uint(), r.uidSet()
	c.Action = StoreOp(r.byte())
	if c.Action > StoreRemove {
		r.fail("store action")
	}
	c.Flags, c.Keywords = r.uint(), r.strings(MaxKeywords)
	c.Conditional, c.Unchanged = r.bool(), r.uint()
}

func (c *Expunge) readFields(r *reader) {
	c.Account, c.Mailbox, c.UIDs, c.Force = r.uint(), r.uint(), r.uidSet(), r.bool()
}

func (c *Copy) readFields(r *reader) {
	c.Account, c.Mailbox, c.UIDs = r.uint(), r.uint(), r.uidSet()
	c.To, c.Move = r.string(), r.bool()
}

func (c *Quota) readFields(r *reader) {
	c.Account, c.Seed = r.string(), r.uint32()
	r.limit(&c.Limit)
}

func (c *Digest) readFields(r *reader) {
	if r.version == versionOldest {
		return
	}
	c.MarkIndex = r.uint()
	copy(c.Mark[:], r.take(uint64(len(c.Mark))))
}

package command

import (
	"errors"
	"fmt"
)

// Version is the newest format this release knows. It reads Version and all
// before it, and writes each entry in the oldest format that can say it, unless
// the entry asks for another: a replica of the release before stops only at what
// is new to it.
const (
	Version        = 4 // who posts, lists of rights that move
	versionCompact = 3
	versionAsks    = 2 // autoreplies, marks of digests
	versionOldest  = 1
)

// Level is the newest format of a pair that this release knows. A pair is on
// level 1 until a Format entry raises it, for all its replicas at one index. On
// level 2 entries of versions 3 and 4 may be proposed: compact deliveries, which
// can say who posts, Remove, Move, Import and Rights.
const Level = 2

// Limits of one entry. Decode refuses what is beyond them.
const (
	MaxPart       = 256 << 10 // octets of messages in one entry
	MaxEntry      = 8 << 20   // octets of an entry
	MaxRecipients = 500       // recipients of one Deliver
	MaxMessages   = 512       // messages of one Append
	MaxExtents    = 8192      // pieces of one message: 2 GB in parts
	MaxKeywords   = 64        // keyword names in one command
	MaxRanges     = 100_000   // ranges of a UID set
	MaxPosters    = 100       // identities of who posts
	MaxGrants     = 250       // identifiers in a list of rights
)

// Errors of Decode.
var (
	ErrUnknown = errors.New("log entry of an unknown version or operation")
	ErrCorrupt = errors.New("log entry not well formed")
)

// Op is the operation of an entry. Numbers are never used again.
type Op byte

// The operations.
const (
	OpPart      Op = 1
	OpDeliver   Op = 2
	OpAppend    Op = 3
	OpAccount   Op = 4
	OpCreate    Op = 5
	OpDelete    Op = 6
	OpRename    Op = 7
	OpSubscribe Op = 8
	OpStore     Op = 9
	OpExpunge   Op = 10
	OpCopy      Op = 11
	OpQuota     Op = 12
	OpDigest    Op = 13
	OpFormat    Op = 14
	OpRemove    Op = 15
	OpMove      Op = 16
	OpImport    Op = 17
	OpRights    Op = 18
)

var opNames = [...]string{
	OpPart: "part", OpDeliver: "deliver", OpAppend: "append", OpAccount: "account", OpCreate: "create",
	OpDelete: "delete", OpRename: "rename", OpSubscribe: "subscribe", OpStore: "store", OpExpunge: "expunge",
	OpCopy: "copy", OpQuota: "quota", OpDigest: "digest", OpFormat: "format",
	OpRemove: "remove", OpMove: "move", OpImport: "import", OpRights: "rights",
}

func (o Op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", byte(o))
}

// Command is one decoded entry: a pointer to one of the types of this package
// named after an operation.
type Command interface {
	Op() Op
	// When is the time of the entry in Unix nanoseconds.
	When() int64
	appendFields(b []byte) []byte
	readFields(r *reader)
	tail() []byte
	setTail(octets []byte)
}

// Append adds the entry of c to b and returns the extended slice.
func Append(b []byte, c Command) []byte {
	b = AppendHead(b, c, len(c.tail()))
	return append(b, c.tail()...)
}

// AppendHead adds the entry of c to b up to its tail, which is to have
// tail octets and is the caller's to put behind it. It lets a message be
// copied once, to its place in the entry, before the rest is known.
func AppendHead(b []byte, c Command, tail int) []byte {
	b = append(b, versionOf(c), byte(c.Op()))
	b = appendInt(b, c.When())
	b = c.appendFields(b)
	return appendUint(b, uint64(tail))
}

// versionOf is the format that c needs.
func versionOf(c Command) byte {
	switch c := c.(type) {
	case *Format, *Remove, *Move, *Rights:
		return versionCompact
	case *Import:
		if c.Mailbox != nil && c.Mailbox.Listed {
			return Version
		}
		return versionCompact
	case *Digest:
		if c.MarkIndex != 0 {
			return versionAsks
		}
	case *Deliver:
		if c.Compact {
			if c.posts() {
				return Version
			}
			return versionCompact
		}
		for i := range c.Recipients {
			if c.Recipients[i].Autoreply != nil {
				return versionAsks
			}
		}
	}
	return versionOldest
}

func known(version byte) bool { return version >= versionOldest && version <= Version }

// Peek returns the operation of an entry without decoding it; 0 when there is none.
func Peek(data []byte) Op {
	if len(data) < 2 || !known(data[0]) {
		return 0
	}
	return Op(data[1])
}

// Decode reads one entry. The command refers to data.
func Decode(data []byte) (Command, error) {
	if len(data) < 2 {
		return nil, fmt.Errorf("%w: %d octets", ErrCorrupt, len(data))
	}
	if !known(data[0]) {
		return nil, fmt.Errorf("%w: version %d, this release reads %d to %d", ErrUnknown, data[0], versionOldest, Version)
	}
	if len(data) > MaxEntry {
		return nil, fmt.Errorf("%w: %d octets", ErrCorrupt, len(data))
	}
	c, h := newCommand(Op(data[1]))
	if c == nil {
		return nil, fmt.Errorf("%w: %v", ErrUnknown, Op(data[1]))
	}
	r := reader{b: data[2:], version: data[0]}
	h.Time = r.int()
	c.readFields(&r)
	if n := r.uint(); r.err == nil && n != uint64(len(r.b)) {
		r.fail("tail length")
	}
	if r.err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrCorrupt, Op(data[1]), r.err)
	}
	if f, ok := c.(*Format); ok && f.Level > Level {
		return nil, fmt.Errorf("%w: the pair goes to format %d, this release knows %d", ErrUnknown, f.Level, Level)
	}
	if data[0] != versionOf(c) {
		return nil, fmt.Errorf("%w: %v: version %d without need", ErrCorrupt, Op(data[1]), data[0])
	}
	if len(r.b) > 0 {
		c.setTail(r.b)
	}
	if !tailInUse(c, len(r.b)) {
		return nil, fmt.Errorf("%w: %v: body outside the entry", ErrCorrupt, Op(data[1]))
	}
	return c, nil
}

// tailInUse reports whether the messages of c lie in a tail of n octets and
// in other entries, as many octets as they say.
func tailInUse(c Command, n int) bool {
	switch c := c.(type) {
	case *Part:
		return n > 0 && n <= MaxPart
	case *Deliver:
		return c.Message.inTail(n)
	case *AppendMessages:
		for i := range c.Messages {
			if !c.Messages[i].Message.inTail(n) {
				return false
			}
		}
		return true
	case *Import:
		for i := range c.Rows {
			if m := c.Rows[i].Message; m != nil && !m.inTail(n) {
				return false
			}
		}
		return true
	}
	return n == 0
}

func (m *Message) inTail(n int) bool {
	var size int64
	for _, e := range m.Body {
		if e.Len == 0 || e.Index == 0 && int64(e.Off)+int64(e.Len) > int64(n) {
			return false
		}
		size += int64(e.Len)
	}
	return size == m.Size
}

func newCommand(op Op) (Command, *Head) {
	switch op {
	case OpPart:
		c := new(Part)
		return c, &c.Head
	case OpDeliver:
		c := new(Deliver)
		return c, &c.Head
	case OpAppend:
		c := new(AppendMessages)
		return c, &c.Head
	case OpAccount:
		c := new(Account)
		return c, &c.Head
	case OpCreate:
		c := new(Create)
		return c, &c.Head
	case OpDelete:
		c := new(Delete)
		return c, &c.Head
	case OpRename:
		c := new(Rename)
		return c, &c.Head
	case OpSubscribe:
		c := new(Subscribe)
		return c, &c.Head
	case OpStore:
		c := new(Store)
		return c, &c.Head
	case OpExpunge:
		c := new(Expunge)
		return c, &c.Head
	case OpCopy:
		c := new(Copy)
		return c, &c.Head
	case OpQuota:
		c := new(Quota)
		return c, &c.Head
	case OpDigest:
		c := new(Digest)
		return c, &c.Head
	case OpFormat:
		c := new(Format)
		return c, &c.Head
	case OpRemove:
		c := new(Remove)
		return c, &c.Head
	case OpMove:
		c := new(Move)
		return c, &c.Head
	case OpImport:
		c := new(Import)
		return c, &c.Head
	case OpRights:
		c := new(Rights)
		return c, &c.Head
	}
	return nil, nil
}

// Head is what every command has.
type Head struct {
	Time int64  // Unix nanoseconds
	Tail []byte // octets of messages at the end of the entry
}

// When is the time of the entry in Unix nanoseconds.
func (h *Head) When() int64        { return h.Time }
func (h *Head) tail() []byte       { return h.Tail }
func (h *Head) setTail(oct []byte) { h.Tail = oct }

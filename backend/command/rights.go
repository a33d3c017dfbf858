package command

import (
	"strings"
	"unicode/utf8"
)

// Right is a set of the rights of RFC 4314 2.1, a bit for each letter from a on.
type Right uint32

// RightPost is the right to have mail put into a mailbox by its address.
const RightPost Right = 1 << ('p' - 'a')

// Anyone is the identifier of everybody, whether known or not (RFC 4314 2).
const Anyone = "anyone"

// Negative begins an identifier whose rights are taken from those that it names
// (RFC 4314 2). Rights holds and applies such a line like any other.
const Negative = "-"

// Letters spells r.
func (r Right) Letters() string {
	var b []byte
	for c := byte('a'); c <= 'z'; c++ {
		if r&(1<<(c-'a')) != 0 {
			b = append(b, c)
		}
	}
	return string(b)
}

// ParseRights reads letters; the first one that is none is returned.
func ParseRights(letters string) (r Right, other string) {
	for i := range len(letters) {
		c := letters[i]
		if c < 'a' || c > 'z' {
			_, n := utf8.DecodeRuneInString(letters[i:])
			return 0, letters[i : i+n]
		}
		r |= 1 << (c - 'a')
	}
	return r, ""
}

// Grant is one line of a list of rights.
type Grant struct {
	Identifier string
	Rights     Right // never none
}

// Rights changes the line of one identifier in the list of a mailbox. The first
// change begins with the list that stood for none. For pairs on level 2.
type Rights struct {
	Head
	Account    uint64
	Name       string
	Identifier string
	Action     StoreOp
	Rights     Right
	Owners     bool // as in Deliver: without a list the mailbox is its owner's
}

// Op is the operation.
func (*Rights) Op() Op { return OpRights }

func (c *Rights) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendString(b, c.Name)
	b = appendString(b, c.Identifier)
	b = append(b, byte(c.Action))
	b = appendUint(b, uint64(c.Rights))
	return appendBool(b, c.Owners)
}

func (c *Rights) readFields(r *reader) {
	c.Account, c.Name, c.Identifier = r.uint(), r.string(), r.string()
	if c.Action = StoreOp(r.byte()); c.Action > StoreRemove {
		r.fail("action on rights")
	}
	c.Rights, c.Owners = r.rights(), r.bool()
}

func (r *reader) rights() Right {
	v := Right(r.uint32())
	if v >= 1<<26 {
		r.fail("rights")
	}
	return v
}

func appendGrants(b []byte, list []Grant) []byte {
	b = appendUint(b, uint64(len(list)))
	for i := range list {
		b = appendUint(appendString(b, list[i].Identifier), uint64(list[i].Rights))
	}
	return b
}

// grants reads a list: in the order of identifiers, each once and with some right.
func (r *reader) grants() []Grant {
	n := r.count(MaxGrants, 2)
	if n == 0 {
		return nil
	}
	list := make([]Grant, n)
	for i := range list {
		g := &list[i]
		g.Identifier, g.Rights = r.string(), r.rights()
		if g.Identifier == "" || g.Rights == 0 || i > 0 && strings.Compare(list[i-1].Identifier, g.Identifier) >= 0 {
			r.fail("list of rights")
			return nil
		}
	}
	return list
}

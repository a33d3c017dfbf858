/*
Package ber reads and writes the subset of BER that LDAP uses (RFC 4511 5.1):
definite lengths, and tag numbers below 31.

Elements are parts of the buffer that they were read from: nothing is copied,
and nothing is allocated but for frames. Lengths are checked against what is
there before they are believed. What the elements mean is for others to say.
*/
package ber

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// BER tags of RFC 4511, class and form included.
const (
	TagBoolean    = 0x01
	TagInteger    = 0x02
	TagOctets     = 0x04
	TagEnumerated = 0x0a
	TagSequence   = 0x30
	TagSet        = 0x31
)

var (
	ErrSyntax  = errors.New("malformed BER")
	ErrTooLong = errors.New("message too long")
)

// Element is one TLV. Body is a part of the buffer it was read from.
type Element struct {
	Tag  byte
	Body []byte
}

// Next cuts the first element off b. Only definite lengths and tag numbers
// below 31 are allowed (RFC 4511 5.1).
func Next(b []byte) (e Element, rest []byte, err error) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return Element{}, nil, ErrSyntax
	}
	n, head := int(b[1]), 2
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 || k > 4 || len(b) < 2+k {
			return Element{}, nil, ErrSyntax
		}
		n = 0
		for _, c := range b[2 : 2+k] {
			n = n<<8 | int(c)
		}
		head += k
	}
	if n < 0 || n > len(b)-head {
		return Element{}, nil, ErrSyntax
	}
	return Element{b[0], b[head : head+n]}, b[head+n:], nil
}

// Expect cuts the first element off b and requires its tag.
func Expect(b []byte, tag byte) (body, rest []byte, err error) {
	e, rest, err := Next(b)
	if err == nil && e.Tag != tag {
		err = ErrSyntax
	}
	return e.Body, rest, err
}

// Integer reads the body of an INTEGER or ENUMERATED of at most 8 octets.
func Integer(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 8 {
		return 0, ErrSyntax
	}
	n := int64(int8(b[0]))
	for _, c := range b[1:] {
		n = n<<8 | int64(c)
	}
	return n, nil
}

// ExpectInt cuts an INTEGER or ENUMERATED with that tag off b.
func ExpectInt(b []byte, tag byte) (n int64, rest []byte, err error) {
	body, rest, err := Expect(b, tag)
	if err != nil {
		return 0, nil, err
	}
	n, err = Integer(body)
	return n, rest, err
}

// ExpectBool cuts a BOOLEAN off b.
func ExpectBool(b []byte) (v bool, rest []byte, err error) {
	body, rest, err := Expect(b, TagBoolean)
	if err != nil || len(body) != 1 {
		return false, nil, ErrSyntax
	}
	return body[0] != 0, rest, nil
}

// ReadFrame reads one LDAPMessage of at most limit octets into buf, which grows
// as octets arrive and not before.
func ReadFrame(r *bufio.Reader, buf []byte, limit int) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return buf, err
	}
	if head[0] != TagSequence {
		return buf, ErrSyntax
	}
	n, size := int(head[1]), 2
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 || k > 4 {
			return buf, ErrSyntax
		}
		if head, err = r.Peek(2 + k); err != nil {
			return buf, err
		}
		n = 0
		for _, c := range head[2:] {
			n = n<<8 | int(c)
		}
		size += k
	}
	if n < 0 || n > limit {
		return buf, ErrTooLong
	}
	r.Discard(size)
	buf = buf[:0]
	for len(buf) < n {
		step := min(n-len(buf), max(64<<10, len(buf)))
		at := len(buf)
		if cap(buf) < at+step {
			grown := make([]byte, at, at+step)
			copy(grown, buf)
			buf = grown
		}
		buf = buf[:at+step]
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// Encoder appends BER to a buffer. Constructed elements get a length of four
// octets that End fills in.
type Encoder struct{ B []byte }

// Begin starts a constructed element; End gets what it returns.
func (w *Encoder) Begin(tag byte) int {
	w.B = append(w.B, tag, 0x84, 0, 0, 0, 0)
	return len(w.B)
}

// End ends a constructed element.
func (w *Encoder) End(start int) {
	binary.BigEndian.PutUint32(w.B[start-4:], uint32(len(w.B)-start))
}

func (w *Encoder) length(n int) {
	switch {
	case n < 0x80:
		w.B = append(w.B, byte(n))
	case n < 0x100:
		w.B = append(w.B, 0x81, byte(n))
	case n < 0x10000:
		w.B = append(w.B, 0x82, byte(n>>8), byte(n))
	default:
		w.B = append(w.B, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

// Octets appends an OCTET STRING, or what has its form, with that tag.
func (w *Encoder) Octets(tag byte, s string) {
	w.B = append(w.B, tag)
	w.length(len(s))
	w.B = append(w.B, s...)
}

// Integer appends an INTEGER or ENUMERATED with that tag.
func (w *Encoder) Integer(tag byte, n int64) {
	k := 1
	for v := n; v > 127 || v < -128; v >>= 8 {
		k++
	}
	w.B = append(w.B, tag, byte(k))
	for i := k - 1; i >= 0; i-- {
		w.B = append(w.B, byte(n>>(8*i)))
	}
}

package embedded

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// BER tags of RFC 4511, class and form included.
const (
	tagBoolean    = 0x01
	tagInteger    = 0x02
	tagOctets     = 0x04
	tagEnumerated = 0x0a
	tagSequence   = 0x30
	tagSet        = 0x31
)

var (
	errBER     = errors.New("malformed BER")
	errTooLong = errors.New("message too long")
)

// element is one TLV. body is a part of the buffer it was read from.
type element struct {
	tag  byte
	body []byte
}

// next cuts the first element off b. Only definite lengths and tag numbers
// below 31 are allowed (RFC 4511 5.1).
func next(b []byte) (e element, rest []byte, err error) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return element{}, nil, errBER
	}
	n, head := int(b[1]), 2
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 || k > 4 || len(b) < 2+k {
			return element{}, nil, errBER
		}
		n = 0
		for _, c := range b[2 : 2+k] {
			n = n<<8 | int(c)
		}
		head += k
	}
	if n < 0 || n > len(b)-head {
		return element{}, nil, errBER
	}
	return element{b[0], b[head : head+n]}, b[head+n:], nil
}

// expect cuts the first element off b and requires its tag.
func expect(b []byte, tag byte) (body, rest []byte, err error) {
	e, rest, err := next(b)
	if err == nil && e.tag != tag {
		err = errBER
	}
	return e.body, rest, err
}

// integer reads the body of an INTEGER or ENUMERATED of at most 8 octets.
func integer(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 8 {
		return 0, errBER
	}
	n := int64(int8(b[0]))
	for _, c := range b[1:] {
		n = n<<8 | int64(c)
	}
	return n, nil
}

func expectInt(b []byte, tag byte) (n int64, rest []byte, err error) {
	body, rest, err := expect(b, tag)
	if err != nil {
		return 0, nil, err
	}
	n, err = integer(body)
	return n, rest, err
}

func expectBool(b []byte) (v bool, rest []byte, err error) {
	body, rest, err := expect(b, tagBoolean)
	if err != nil || len(body) != 1 {
		return false, nil, errBER
	}
	return body[0] != 0, rest, nil
}

// readFrame reads one LDAPMessage of at most limit octets into buf, which grows
// as octets arrive and not before.
func readFrame(r *bufio.Reader, buf []byte, limit int) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return buf, err
	}
	if head[0] != tagSequence {
		return buf, errBER
	}
	n, size := int(head[1]), 2
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 || k > 4 {
			return buf, errBER
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
		return buf, errTooLong
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

// encoder appends BER to a buffer. Constructed elements get a length of four
// octets that end fills in.
type encoder struct{ b []byte }

func (w *encoder) begin(tag byte) int {
	w.b = append(w.b, tag, 0x84, 0, 0, 0, 0)
	return len(w.b)
}

func (w *encoder) end(start int) {
	binary.BigEndian.PutUint32(w.b[start-4:], uint32(len(w.b)-start))
}

func (w *encoder) length(n int) {
	switch {
	case n < 0x80:
		w.b = append(w.b, byte(n))
	case n < 0x100:
		w.b = append(w.b, 0x81, byte(n))
	case n < 0x10000:
		w.b = append(w.b, 0x82, byte(n>>8), byte(n))
	default:
		w.b = append(w.b, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

func (w *encoder) octets(tag byte, s string) {
	w.b = append(w.b, tag)
	w.length(len(s))
	w.b = append(w.b, s...)
}

func (w *encoder) integer(tag byte, n int64) {
	k := 1
	for v := n; v > 127 || v < -128; v >>= 8 {
		k++
	}
	w.b = append(w.b, tag, byte(k))
	for i := k - 1; i >= 0; i-- {
		w.b = append(w.b, byte(n>>(8*i)))
	}
}

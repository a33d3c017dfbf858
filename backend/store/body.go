package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
)

// Body reads one stored message. It is for one goroutine, until Close.
type Body struct {
	s *Store
	m Message

	row  []byte // the message's row, behind m.Meta
	data []byte // the entry read last
	at   int    // which extent of m.Body it holds, -1 none
	join []byte // octets of a range that spans extents
}

// maxPooled is the largest buffer that goes back to the pool: an entry with a
// whole part and its fields.
const maxPooled = 512 << 10

var bodies = sync.Pool{New: func() any { return new(Body) }}

// ErrBody says that octets of a message cannot be read as they were stored.
var ErrBody = errors.New("store: message damaged")

// Body opens the message with this id; ErrNotFound when it is not stored.
func (s *Store) Body(id uint64) (*Body, error) {
	b := bodies.Get().(*Body)
	b.s, b.at = s, -1
	var k [9]byte
	v, err := s.get(key8(k[:0], kindMessage, id), b.row)
	if err == nil {
		b.row = v
		b.m.ID = id
		err = b.m.decode(v)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Close gives the buffers back. What Bytes and Message returned is gone.
func (b *Body) Close() {
	if cap(b.data) > maxPooled {
		b.data = nil
	}
	if cap(b.join) > maxPooled {
		b.join = nil
	}
	b.s, b.m.Meta, b.at = nil, nil, -1
	bodies.Put(b)
}

// Message is the row of the message, valid until Close.
func (b *Body) Message() *Message { return &b.m }

// Size is the octets of the message.
func (b *Body) Size() int64 { return b.m.Size }

// extent returns the octets of one extent, valid until the next call.
func (b *Body) extent(i int) ([]byte, error) {
	e := b.m.Body[i]
	if b.at < 0 || b.m.Body[b.at].Index != e.Index {
		b.at = -1
		data, err := b.s.bodies.ReadEntry(e.Index, b.data[:0])
		if err != nil {
			return nil, fmt.Errorf("store: message %x, entry %d: %w", b.m.ID, e.Index, err)
		}
		b.data = data
	}
	b.at = i
	if uint64(e.Off)+uint64(e.Len) > uint64(len(b.data)) {
		return nil, fmt.Errorf("%w: message %x, entry %d has %d octets", ErrBody, b.m.ID, e.Index, len(b.data))
	}
	return b.data[e.Off : e.Off+e.Len], nil
}

// Each calls f with the octets [off, off+n) piece by piece, in order; a piece
// is valid during the call and at most as long as an entry. Octets behind the
// end are left out.
func (b *Body) Each(off, n int64, f func(piece []byte) error) error {
	off, end := clip(off, n, b.m.Size)
	var at int64
	for i := range b.m.Body {
		length := int64(b.m.Body[i].Len)
		if at+length > off && at < end {
			piece, err := b.extent(i)
			if err != nil {
				return err
			}
			if err := f(piece[max(off-at, 0):min(end-at, length)]); err != nil {
				return err
			}
		}
		at += length
	}
	return nil
}

// Bytes returns the octets [off, off+n), fewer at the end of the message,
// valid until the next call.
func (b *Body) Bytes(off, n int64) ([]byte, error) {
	off, end := clip(off, n, b.m.Size)
	if len(b.m.Body) == 1 {
		piece, err := b.extent(0)
		if err != nil {
			return nil, err
		}
		return piece[off:end], nil
	}
	if int64(cap(b.join)) < end-off {
		b.join = make([]byte, 0, end-off)
	}
	b.join = b.join[:0]
	err := b.Each(off, end-off, func(piece []byte) error {
		b.join = append(b.join, piece...)
		return nil
	})
	return b.join, err
}

func clip(off, n, size int64) (from, to int64) {
	off = min(max(off, 0), size)
	return off, off + min(max(n, 0), size-off)
}

// Check reads the whole message and compares it with its hash.
func (b *Body) Check() error {
	h := sha256.New()
	err := b.Each(0, b.m.Size, func(piece []byte) error {
		h.Write(piece)
		return nil
	})
	if err != nil {
		return err
	}
	if sum := h.Sum(nil); string(sum[:HashSize]) != string(b.m.Hash[:]) {
		return fmt.Errorf("%w: message %x does not have its hash", ErrBody, b.m.ID)
	}
	return nil
}

// CheckMessage reads the octets of m from bodies and compares them with its
// hash.
func CheckMessage(m *Message, from Bodies) error {
	b := &Body{s: &Store{bodies: from}, m: *m, at: -1}
	return b.Check()
}

// Octets reads a run of extents, in order.
func (s *Store) Octets(at []Extent) ([]byte, error) {
	b := Body{s: s, m: Message{Body: at}, at: -1}
	for _, x := range at {
		b.m.Size += int64(x.Len)
	}
	return b.Bytes(0, b.m.Size)
}

// HashOf returns the hash of a stored message.
func (s *Store) HashOf(id uint64) (hash [HashSize]byte, err error) {
	b, err := s.Body(id)
	if err != nil {
		return hash, err
	}
	defer b.Close()
	return b.m.Hash, nil
}

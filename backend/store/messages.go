package store

import (
	"errors"
	"fmt"
)

// MessageBits is how far an entry's index is shifted in the id of a message
// that it brings in: an entry brings in at most 1<<MessageBits.
const MessageBits = 10

// DeadSpan is how many entries of the log share one count of dead octets.
const DeadSpan = 4096

// refCount is how many mailbox rows refer to a message.
type refCount struct {
	n   uint32
	row bool // there is a row for it: the count is no longer the first one
}

// PutMessage stores m with its first reference count. Entries other than the
// one that brings it in, which hold only parts of it, are noted as its.
func (b *Batch) PutMessage(m *Message) {
	b.key = key8(b.key, kindMessage, m.ID)
	b.put(b.key, m.encode(b.value[:0]), Sum{})
	b.refs[m.ID] = refCount{n: m.Refs}
	for _, e := range m.Body {
		if e.Index != m.ID>>MessageBits {
			b.key = key8(b.key, kindPart, e.Index)
			b.put(b.key, putUint(b.value[:0], m.ID), Sum{})
		}
	}
	b.st.Messages++
	b.st.Bytes += uint64(m.Size)
}

// Refs returns how many mailbox rows refer to a message, this batch included;
// 0 when the message is not stored.
func (b *Batch) Refs(message uint64) (uint32, error) {
	rc, err := b.refCount(message)
	return rc.n, err
}

func (b *Batch) refCount(message uint64) (refCount, error) {
	if rc, ok := b.refs[message]; ok {
		return rc, nil
	}
	var rc refCount
	b.key = key8(b.key, kindRefs, message)
	v, err := b.s.get(b.key, b.value)
	switch {
	case err == nil:
		r := fields{b: v}
		rc = refCount{r.uint32(), true}
		err = r.end()
	case errors.Is(err, ErrNotFound):
		b.key = key8(b.key, kindMessage, message)
		v, err = b.s.get(b.key, b.value)
		if err == nil {
			r := fields{b: v}
			rc = refCount{r.uint32(), false}
			err = r.err
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return rc, err
	}
	b.refs[message] = rc
	return rc, nil
}

// AddRefs changes the references of a stored message by delta. At 0 the
// message is gone and its octets count as dead. A message that came in with
// this very batch cannot go in it.
func (b *Batch) AddRefs(message uint64, delta int) error {
	rc, err := b.refCount(message)
	if err != nil {
		return err
	}
	n := int64(rc.n) + int64(delta)
	if rc.n == 0 || n < 0 {
		return fmt.Errorf("store: message %x has %d references, change by %d", message, rc.n, delta)
	}
	key := key8(nil, kindRefs, message)
	if rc.row {
		b.digest.Sub(rowSum(key, putUint(b.value[:0], uint64(rc.n))))
	}
	if n > 0 {
		b.put(key, putUint(b.value[:0], uint64(n)), Sum{})
		b.refs[message] = refCount{uint32(n), true}
		return nil
	}
	if rc.row {
		b.delete(key)
	}
	b.refs[message] = refCount{}
	return b.deleteMessage(message)
}

func (b *Batch) deleteMessage(id uint64) error {
	b.key = key8(b.key, kindMessage, id)
	v, err := b.s.get(b.key, nil)
	if err != nil {
		return fmt.Errorf("store: message %x: %w", id, err)
	}
	var m Message
	if err := m.decode(v); err != nil {
		return err
	}
	b.delete(b.key)
	b.digest.Sub(rowSum(b.key, v))
	for _, e := range m.Body {
		if e.Index != id>>MessageBits {
			b.key = key8(b.key, kindPart, e.Index)
			b.delete(b.key)
			b.digest.Sub(rowSum(b.key, putUint(b.value[:0], id)))
		}
		b.AddDead(e.Index, int64(e.Len))
	}
	b.st.Messages--
	b.st.Bytes -= uint64(m.Size)
	return nil
}

// AddDead counts n octets of messages in the entry at index as dead, or with
// n below 0 as in use again.
func (b *Batch) AddDead(index uint64, n int64) { b.dead[index/DeadSpan] += n }

func (b *Batch) putDead() error {
	for span, n := range b.dead {
		b.key = key8(b.key, kindDead, span)
		v, err := b.s.get(b.key, b.value)
		if err == nil {
			r := fields{b: v}
			n += r.signed()
			err = r.end()
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		b.set(b.key, putSigned(b.value[:0], n))
	}
	return nil
}

// PutDelivered remembers what became of a delivery key.
func (b *Batch) PutDelivered(k [16]byte, d *Delivered) {
	b.key = keyDelivery(b.key, k)
	b.set(b.key, d.encode(b.value[:0]))
}

// Delivered returns what became of a delivery key in an earlier batch.
func (b *Batch) Delivered(k [16]byte, d *Delivered) (bool, error) {
	if b.s.keys.absent(&k) {
		return false, nil
	}
	b.key = keyDelivery(b.key, k)
	v, err := b.s.get(b.key, b.value)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	b.value = v
	return true, d.decode(v)
}

// HasDelivered reports whether a delivery key is known. Any goroutine may ask.
func (s *Store) HasDelivered(k [16]byte) (bool, error) {
	_, err := s.get(keyDelivery(nil, k), nil)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// PutExpiry notes that keys, 16 octets each, are to be forgotten at the time
// given, in Unix nanoseconds. index is that of their entry.
func (b *Batch) PutExpiry(at int64, index uint64, keys []byte) {
	b.key = key16(b.key, kindExpiry, uint64(at), index)
	b.put(b.key, append(b.value[:0], keys...), Sum{})
	b.s.keys.add(keys, at)
}

// maxExpired bounds the keys that one call of Expire removes, the last entry
// apart.
const maxExpired = 20_000

// Expire removes the delivery keys and the answered senders whose time is at
// most now, oldest first, from what is committed; the batch must be empty. It
// returns when the next ones are due, which can be at once.
func (b *Batch) Expire(now int64) (next int64, err error) {
	keys, err := b.expireKeys(now)
	if err != nil {
		return 0, err
	}
	answered, err := b.expireAnswered(now)
	return min(keys, answered), err
}

func (b *Batch) expireKeys(now int64) (next int64, err error) {
	it, err := b.s.iterator([]byte{kindExpiry}, []byte{kindExpiry + 1})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	removed := 0
	for ok := it.First(); ok; ok = it.Next() {
		at := expiryTime(it.Key())
		if at > now || removed >= maxExpired {
			b.s.keys.forget(min(now, at-1))
			return at, nil
		}
		b.digest.Sub(rowSum(it.Key(), it.Value()))
		b.delete(it.Key())
		for keys := it.Value(); len(keys) >= 16; keys = keys[16:] {
			b.key = append(append(b.key[:0], kindKey), keys[:16]...)
			b.delete(b.key)
			removed++
		}
	}
	if err := it.Error(); err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	b.s.keys.forget(now)
	return forever, nil
}

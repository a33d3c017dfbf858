package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// memory is what a batch changed in the memory of answered senders. Its rows
// are not yet visible.
type memory struct {
	rows   map[answeredKey]Answered // Until 0: forgotten
	counts map[uint64]int64         // by account
}

// Answered is what an account remembers of a sender who has an answer.
type Answered struct {
	Until int64 // Unix nanoseconds; 0: nothing is remembered
	// Open: the answer is due, and whoever sends it claims it first. By is who
	// has claimed it, zero when nobody has, or when no claim was announced.
	Open bool
	By   [KeySize]byte
}

// encode appends the row of a: when it ends, and for an answer that is to be
// claimed by whom, zeros while it is open.
func (a *Answered) encode(b []byte) []byte {
	b = putUint(b, uint64(a.Until))
	if a.Open || a.By != [KeySize]byte{} {
		b = append(b, a.By[:]...)
	}
	return b
}

func (a *Answered) decode(v []byte) error {
	r := fields{b: v}
	*a = Answered{Until: r.int()}
	if len(r.b) > 0 {
		copy(a.By[:], r.take(KeySize))
		a.Open = a.By == [KeySize]byte{}
	}
	return r.end()
}

type answeredKey struct {
	account uint64
	hash    [HashSize]byte
}

func newMemory() memory {
	return memory{rows: make(map[answeredKey]Answered), counts: make(map[uint64]int64)}
}

func (m *memory) clear() {
	clear(m.rows)
	clear(m.counts)
}

func keyAnswered(b []byte, account uint64) []byte {
	return append(key8(b, kindAccount, account), sectionAnswered)
}

const forgetSize = 1 + 8 + 8 + HashSize // octets of a key of kindForget

func keyForget(b []byte, until int64, k *answeredKey) []byte {
	return append(key16(b, kindForget, uint64(until), k.account), k.hash[:]...)
}

func splitForget(key []byte) (until int64, k answeredKey, ok bool) {
	if len(key) != forgetSize {
		return 0, k, false
	}
	k.account = binary.BigEndian.Uint64(key[9:])
	copy(k.hash[:], key[17:])
	return expiryTime(key), k, true
}

// Answered returns what the account remembers of a sender, by the hash of
// sender and answer, this batch included. A time that has passed may still be
// there.
func (b *Batch) Answered(account uint64, hash [HashSize]byte) (a Answered, err error) {
	if a, ok := b.answered.rows[answeredKey{account, hash}]; ok {
		return a, nil
	}
	b.key = append(keyAnswered(b.key, account), hash[:]...)
	v, err := b.s.get(b.key, b.value)
	if errors.Is(err, ErrNotFound) {
		return Answered{}, nil
	}
	if err != nil {
		return Answered{}, err
	}
	b.value = v
	err = a.decode(v)
	return a, err
}

// AnsweredCount returns how many senders the account has in its memory, this
// batch included.
func (b *Batch) AnsweredCount(account uint64) (int64, error) {
	if n, ok := b.answered.counts[account]; ok {
		return n, nil
	}
	b.key = keyAnswered(b.key, account)
	return b.number()
}

// number reads the row b.key, which holds one number; 0 when there is none.
func (b *Batch) number() (int64, error) {
	v, err := b.s.get(b.key, b.value)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	b.value = v
	r := fields{b: v}
	n := r.int()
	return n, r.end()
}

// PutAnswered remembers that the account has answered a sender, or is to, until
// a time above 0. Expire forgets it.
func (b *Batch) PutAnswered(account uint64, hash [HashSize]byte, a Answered) error {
	return b.setAnswered(&answeredKey{account, hash}, a)
}

// setAnswered replaces a row of the memory and all that follows from it.
func (b *Batch) setAnswered(k *answeredKey, now Answered) error {
	old, err := b.Answered(k.account, k.hash)
	if err != nil || old == now {
		return err
	}
	if (old.Until == 0) != (now.Until == 0) {
		delta := int64(1)
		if now.Until == 0 {
			delta = -1
		}
		if err := b.countAnswered(k.account, delta); err != nil {
			return err
		}
	}
	if old.Until != now.Until {
		if old.Until != 0 {
			b.key = keyForget(b.key, old.Until, k)
			b.delete(b.key)
		}
		if now.Until != 0 {
			b.key = keyForget(b.key, now.Until, k)
			b.set(b.key, b.value[:0])
		}
	}
	b.key = append(keyAnswered(b.key, k.account), k.hash[:]...)
	if old.Until != 0 {
		b.value = old.encode(b.value[:0])
		b.digest.Sub(rowSum(b.key, b.value))
	}
	if now.Until != 0 {
		b.put(b.key, now.encode(b.value[:0]), Sum{})
	} else {
		b.delete(b.key)
	}
	b.answered.rows[*k] = now
	return nil
}

func (b *Batch) countAnswered(account uint64, delta int64) error {
	old, err := b.AnsweredCount(account)
	if err != nil {
		return err
	}
	if old+delta < 0 {
		return fmt.Errorf("%w: account %d counts %d answered senders, change by %d", ErrInconsistent, account, old, delta)
	}
	b.key = keyAnswered(b.key, account)
	b.replaceNumber(old, old+delta)
	b.answered.counts[account] = old + delta
	return nil
}

// replaceNumber writes the row b.key, which counts in the digest and held old;
// 0 is no row.
func (b *Batch) replaceNumber(old, now int64) {
	if old != 0 {
		b.value = putUint(b.value[:0], uint64(old))
		b.digest.Sub(rowSum(b.key, b.value))
	}
	if now == 0 {
		b.delete(b.key)
		return
	}
	b.put(b.key, putUint(b.value[:0], uint64(now)), Sum{})
}

// maxForgotten bounds the senders that one call of Expire forgets.
const maxForgotten = 5_000

func (b *Batch) expireAnswered(now int64) (next int64, err error) {
	it, err := b.s.iterator([]byte{kindForget}, []byte{kindForget + 1})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		until, k, ok := splitForget(it.Key())
		if !ok {
			return 0, errRow
		}
		if until > now || n >= maxForgotten {
			return until, nil
		}
		if err := b.setAnswered(&k, Answered{}); err != nil {
			return 0, err
		}
		n++
	}
	if err := it.Error(); err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return forever, nil
}

// answeredRow checks a row of the memory: hash is empty for the count.
func (v *verifier) answeredRow(account uint64, hash, value []byte) error {
	switch {
	case len(hash) == 0:
		r := fields{b: value}
		v.answered[account] -= r.int()
		return r.end()
	case len(hash) == HashSize:
		var a Answered
		if err := a.decode(value); err != nil {
			return err
		}
		v.answered[account]++
		k := answeredKey{account: account}
		copy(k.hash[:], hash)
		v.forget.Add(rowSum(keyForget(nil, a.Until, &k), nil))
		return nil
	}
	return errRow
}

// forgetRow checks that a row of kindForget belongs to one of the memory.
func (v *verifier) forgetRow(key []byte) error {
	if len(key) != forgetSize {
		return errRow
	}
	v.forget.Sub(rowSum(key, nil))
	return nil
}

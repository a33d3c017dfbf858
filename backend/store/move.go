package store

import (
	"bytes"
	"errors"
	"time"
)

// MoveState is where an account stands on its way between two pairs.
type MoveState byte

// The states. An account without a row of them is here and stays.
const (
	MoveCopied  MoveState = 1 // it is here, and is being copied
	MoveFenced  MoveState = 2 // it is here, and does not change until FenceLife is over
	MoveGone    MoveState = 3 // it is at Peer
	MoveArrives MoveState = 4 // it is being filled, and not open yet
)

const (
	// FenceLife is how long a fence holds: when whoever moves the account is no
	// more, the account is free again after it.
	FenceLife = 2 * time.Minute
	// GoneLife is how long it is told that an account is at another pair: longer
	// than mail waits in a queue, and than a relay believes the directory.
	GoneLife = 30 * 24 * time.Hour
)

// Move is the row of an account on its way; the zero Move is none.
type Move struct {
	State MoveState
	Peer  string // the other pair
	Token [16]byte
	Since int64 // Unix nanoseconds, of the state

	sum Sum
}

// Closed reports whether the account takes nothing at a time.
func (m *Move) Closed(now int64) bool {
	switch m.State {
	case MoveFenced:
		return now < m.Since+int64(FenceLife)
	case MoveGone:
		return now < m.Since+int64(GoneLife)
	}
	return m.State == MoveArrives
}

func (m *Move) encode(b []byte) []byte {
	b = append(append(b, byte(m.State)), m.Token[:]...)
	b = putSigned(b, m.Since)
	return append(b, m.Peer...)
}

func (m *Move) decode(key, v []byte) error {
	r := fields{b: v}
	*m = Move{sum: rowSum(key, v)}
	m.State = MoveState(r.uint())
	copy(m.Token[:], r.take(uint64(len(m.Token))))
	m.Since = r.signed()
	m.Peer = string(r.b)
	return r.err
}

// Move returns the move of the account called name.
func (s *Store) Move(name string) (m Move, err error) {
	key := keyName(nil, kindMove, name)
	v, err := s.get(key, nil)
	if errors.Is(err, ErrNotFound) {
		return m, nil
	}
	if err == nil {
		err = m.decode(key, v)
	}
	return m, err
}

// Move is Store.Move as of the snapshot, which must be one of everything.
func (n *Snapshot) Move(name string) (m Move, err error) {
	n.key = keyName(n.key, kindMove, name)
	v, err := n.get()
	if errors.Is(err, ErrNotFound) {
		return m, nil
	}
	if err == nil {
		err = m.decode(n.key, v)
	}
	return m, err
}

// PutMove writes the move of an account over the one that m was read from or
// written as. State 0 removes it.
func (b *Batch) PutMove(name string, m *Move) {
	b.key = keyName(b.key, kindMove, name)
	if m.State != 0 {
		m.sum = b.put(b.key, m.encode(b.value[:0]), m.sum)
		return
	}
	if m.sum != (Sum{}) {
		b.delete(b.key)
		b.digest.Sub(m.sum)
	}
	*m = Move{}
}

// Delivered calls f with every delivery key and what became of it, until f
// returns false.
func (n *Snapshot) Delivered(f func(key [KeySize]byte, d *Delivered) bool) error {
	var d Delivered
	for ok := n.it.SeekGE([]byte{kindKey}); ok && n.it.Key()[0] == kindKey; ok = n.it.Next() {
		v, err := n.value()
		if err == nil {
			err = d.decode(v)
		}
		if err != nil {
			return err
		}
		if !f([KeySize]byte(n.it.Key()[1:]), &d) {
			return nil
		}
	}
	return n.done()
}

// Expiring calls f with the delivery keys of each entry, 16 octets each, that are
// forgotten at a time or after it.
func (n *Snapshot) Expiring(at int64, f func(keys []byte)) error {
	for ok := n.it.SeekGE(key8(nil, kindExpiry, uint64(at))); ok && n.it.Key()[0] == kindExpiry; ok = n.it.Next() {
		v, err := n.value()
		if err != nil {
			return err
		}
		f(v)
	}
	return n.done()
}

// DeliveredTo returns what became of a delivery key; ErrNotFound when it is not
// known.
func (n *Snapshot) DeliveredTo(key [KeySize]byte, d *Delivered) error {
	n.key = keyDelivery(n.key, key)
	v, err := n.get()
	if err != nil {
		return err
	}
	return d.decode(v)
}

// Answered calls f with every sender that an account remembers to have answered.
func (n *Snapshot) Answered(account uint64, f func(hash [HashSize]byte, a *Answered)) error {
	n.key = keyAnswered(n.key, account)
	prefix := bytes.Clone(n.key)
	for ok := n.it.SeekGE(prefix); ok && bytes.HasPrefix(n.it.Key(), prefix); ok = n.it.Next() {
		if len(n.it.Key()) != len(prefix)+HashSize {
			continue // how many there are
		}
		v, err := n.value()
		if err != nil {
			return err
		}
		var a Answered
		if err := a.decode(v); err != nil {
			return err
		}
		f([HashSize]byte(n.it.Key()[len(prefix):]), &a)
	}
	return n.done()
}

// State is Store.State as of the snapshot, without the level of the format.
func (n *Snapshot) State() (st State, err error) {
	n.key = append(n.key[:0], kindState)
	v, err := n.get()
	if errors.Is(err, ErrNotFound) {
		return st, nil
	}
	if err == nil {
		err = st.decode(v)
	}
	return st, err
}

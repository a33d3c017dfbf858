package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrInconsistent says that rows contradict each other.
var ErrInconsistent = errors.New("store: rows contradict each other")

// Verify reads every row and checks it against the others: the digests of the
// mailboxes and of the whole, the counters, and the reference counts, for
// which it keeps about 50 octets a message in memory. It returns the digest.
// It reads one moment, and may run beside everything else.
func (s *Store) Verify() (Sum, error) {
	n, err := s.Snapshot()
	if err != nil {
		return Sum{}, err
	}
	defer n.Close()
	v := verifier{boxes: make(map[uint64]*Counters), want: make(map[uint64]*Counters), refs: make(map[uint64]int64), answered: make(map[uint64]int64)}
	ok := n.it.First()
	for ; ok; ok = n.it.Next() {
		value, err := n.value()
		if err != nil {
			return Sum{}, err
		}
		if err := v.row(n.it.Key(), value); err != nil {
			return Sum{}, fmt.Errorf("%w: key %x", err, n.it.Key())
		}
	}
	if err := n.done(); err != nil {
		return Sum{}, err
	}
	return v.sum, v.end()
}

// verifier gathers what the rows say of each other.
type verifier struct {
	sum      Sum
	state    State
	boxes    map[uint64]*Counters // made from the rows
	want     map[uint64]*Counters // as written
	refs     map[uint64]int64     // references by rows less those counted
	messages uint64
	bytes    uint64

	answered map[uint64]int64 // answered senders of accounts less those counted
	forget   Sum              // of their rows less those of kindForget
}

func (v *verifier) row(key, value []byte) error {
	var id uint64
	if len(key) >= 9 {
		id = binary.BigEndian.Uint64(key[1:])
	}
	switch key[0] {
	case kindPart, kindExpiry, kindMove:
		v.sum.Add(rowSum(key, value))
	case kindAccount:
		v.sum.Add(rowSum(key, value))
		if key[sectionAt] == sectionBoxes && key[boxPartAt] == 1 {
			c := new(Counters)
			v.want[binary.BigEndian.Uint64(key[boxAt:])] = c
			return c.decode(value)
		}
		if key[sectionAt] == sectionAnswered {
			return v.answeredRow(id, key[sectionAt+1:], value)
		}
		if key[sectionAt] == sectionRights { // behind the mailboxes of the account
			return v.rightsRow(key, value)
		}
	case kindForget:
		return v.forgetRow(key)
	case kindMessage:
		v.sum.Add(rowSum(key, value))
		var m Message
		if err := m.decode(value); err != nil {
			return err
		}
		v.refs[id] -= int64(m.Refs)
		v.messages++
		v.bytes += uint64(m.Size)
	case kindRefs:
		v.sum.Add(rowSum(key, value))
		r := fields{b: value}
		// The key sorts behind those of messages: the first count is known.
		v.refs[id] = -int64(r.uint32())
		return r.end()
	case kindRow:
		return v.mailboxRow(id, key, value)
	case kindState:
		return v.state.decode(value)
	}
	return nil
}

// mailboxRow follows kindRefs in the order of keys.
func (v *verifier) mailboxRow(box uint64, key, value []byte) error {
	var w Row
	if err := w.decode(binary.BigEndian.Uint32(key[9:]), value); err != nil {
		return err
	}
	c := v.boxes[box]
	if c == nil {
		c = new(Counters)
		v.boxes[box] = c
	}
	c.Messages++
	c.Size += w.Size
	c.UIDNext, c.ModSeq = w.UID+1, max(c.ModSeq, w.ModSeq)
	if w.Flags&1 == 0 {
		c.Unseen++
	}
	if w.Flags&(1<<3) != 0 {
		c.Deleted++
	}
	c.Rows.Add(rowSum(key, value))
	v.refs[w.MessageID]++
	return nil
}

func (v *verifier) end() error {
	for id, want := range v.want {
		got := v.boxes[id]
		if got == nil {
			got = new(Counters)
		}
		if got.Messages != want.Messages || got.Unseen != want.Unseen || got.Deleted != want.Deleted ||
			got.Size != want.Size || got.Rows != want.Rows || got.UIDNext > want.UIDNext || got.ModSeq > want.ModSeq {
			return fmt.Errorf("%w: mailbox %d has %+v, its rows %+v", ErrInconsistent, id, *want, *got)
		}
		delete(v.boxes, id)
	}
	for id := range v.boxes {
		return fmt.Errorf("%w: rows of mailbox %d, which does not exist", ErrInconsistent, id)
	}
	for id, n := range v.answered {
		if n != 0 {
			return fmt.Errorf("%w: account %d counts %d answered senders too few", ErrInconsistent, id, n)
		}
	}
	if v.forget != (Sum{}) {
		return fmt.Errorf("%w: answered senders and when to forget them differ", ErrInconsistent)
	}
	for id, n := range v.refs {
		if n != 0 {
			return fmt.Errorf("%w: message %x counts %d references too few", ErrInconsistent, id, n)
		}
	}
	switch {
	case v.sum != v.state.Digest:
		return fmt.Errorf("%w: digest %v, of the rows %v", ErrInconsistent, v.state.Digest, v.sum)
	case v.messages != v.state.Messages || v.bytes != v.state.Bytes:
		return fmt.Errorf("%w: %d messages of %d octets, counted %d of %d", ErrInconsistent,
			v.messages, v.bytes, v.state.Messages, v.state.Bytes)
	}
	return nil
}

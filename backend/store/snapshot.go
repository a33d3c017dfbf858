package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"
)

const forever = math.MaxInt64

func (s *Store) iterator(lower, upper []byte) (*pebble.Iterator, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return it, nil
}

func expiryTime(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[1:])) }

// Snapshot reads the store as it is at one moment, between two commits. It is
// for one goroutine, and must be closed soon: it keeps files and memory.
type Snapshot struct {
	it  *pebble.Iterator
	key []byte
}

// Snapshot begins reading.
func (s *Store) Snapshot() (*Snapshot, error) {
	it, err := s.iterator(nil, nil)
	if err != nil {
		return nil, err
	}
	return &Snapshot{it: it, key: make([]byte, 0, 64)}, nil
}

// AccountSnapshot is Snapshot for the rows of one account: itself, its
// mailboxes and its subscriptions.
func (s *Store) AccountSnapshot(id uint64) (*Snapshot, error) {
	it, err := s.iterator(key8(nil, kindAccount, id), key8(nil, kindAccount, id+1))
	if err != nil {
		return nil, err
	}
	return &Snapshot{it: it, key: make([]byte, 0, 64)}, nil
}

// MailboxSnapshot is Snapshot for the rows of one mailbox.
func (s *Store) MailboxSnapshot(id uint64) (*Snapshot, error) {
	it, err := s.iterator(key8(nil, kindRow, id), key8(nil, kindRow, id+1))
	if err != nil {
		return nil, err
	}
	return &Snapshot{it: it, key: make([]byte, 0, 16)}, nil
}

// AccountID returns the id of the account called name.
func (s *Store) AccountID(name string) (uint64, error) {
	v, err := s.get(keyName(nil, kindAccountName, name), nil)
	if err != nil {
		return 0, err
	}
	r := fields{b: v}
	return r.uint(), r.err
}

// Close ends reading.
func (n *Snapshot) Close() { n.it.Close() }

// get returns the value of n.key, valid until the next call.
func (n *Snapshot) get() ([]byte, error) {
	if !n.it.SeekPrefixGE(n.key) || !bytes.Equal(n.it.Key(), n.key) {
		return nil, n.missing()
	}
	return n.value()
}

func (n *Snapshot) missing() error {
	if err := n.it.Error(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return ErrNotFound
}

func (n *Snapshot) value() ([]byte, error) {
	v, err := n.it.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return v, nil
}

// done returns the error that ended a scan, nil when it came to its end.
func (n *Snapshot) done() error {
	if err := n.missing(); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// Account returns the account with this id.
func (n *Snapshot) Account(id uint64) (Account, error) {
	var a Account
	n.key = keyAccount(n.key, id)
	v, err := n.get()
	if err != nil {
		return a, err
	}
	a.sum = rowSum(n.key, v)
	return a, a.decode(id, v)
}

// Accounts calls f with the names of accounts in order, from the one after
// the given name, until f returns false.
func (n *Snapshot) Accounts(after string, f func(name string) bool) error {
	n.key = append(keyName(n.key, kindAccountName, after), 0)
	for ok := n.it.SeekGE(n.key); ok && n.it.Key()[0] == kindAccountName; ok = n.it.Next() {
		if !f(string(n.it.Key()[1:])) {
			return nil
		}
	}
	return n.done()
}

// Mailbox returns a mailbox of an account.
func (n *Snapshot) Mailbox(account, id uint64) (Mailbox, error) {
	var m Mailbox
	n.key = keyMailbox(n.key, account, id)
	v, err := n.get()
	if err != nil {
		return m, err
	}
	m.sum = rowSum(n.key, v)
	return m, m.decode(account, id, v)
}

// Counters returns the counters of a mailbox.
func (n *Snapshot) Counters(account, id uint64) (Counters, error) {
	var c Counters
	n.key = keyCounters(n.key, account, id)
	v, err := n.get()
	if err != nil {
		return c, err
	}
	c.sum = rowSum(n.key, v)
	return c, c.decode(v)
}

// Mailboxes calls f with every mailbox of an account, in the order they were
// made, until f returns false. Both arguments are f's to keep.
//
// It seeks every row: a step from the counters to the next row would pass all
// their older values that are still in memory, one for each delivery.
func (n *Snapshot) Mailboxes(account uint64, f func(m *Mailbox, c *Counters) bool) error {
	n.key = append(key8(n.key, kindAccount, account), sectionBoxes)
	prefix := len(n.key)
	for n.it.SeekGE(n.key) && bytes.HasPrefix(n.it.Key(), n.key[:prefix]) {
		v, err := n.value()
		if err != nil {
			return err
		}
		k := n.it.Key()
		id := binary.BigEndian.Uint64(k[boxAt:])
		if k[boxPartAt] != 0 {
			return fmt.Errorf("%w: counters of mailbox %d alone", ErrInconsistent, id)
		}
		m := &Mailbox{sum: rowSum(k, v)}
		if err := m.decode(account, id, v); err != nil {
			return err
		}
		n.key = keyCounters(n.key, account, id)
		if v, err = n.get(); err != nil {
			return fmt.Errorf("counters of mailbox %d: %w", id, err)
		}
		c := &Counters{sum: rowSum(n.key, v)}
		if err := c.decode(v); err != nil {
			return err
		}
		if !f(m, c) {
			return nil
		}
		n.key = keyMailbox(n.key, account, id+1)
	}
	return n.done()
}

// Subscriptions calls f with every subscribed name of an account, in order.
func (n *Snapshot) Subscriptions(account uint64, f func(name string)) error {
	n.key = keySubscribed(n.key, account, "")
	for ok := n.it.SeekGE(n.key); ok && bytes.HasPrefix(n.it.Key(), n.key); ok = n.it.Next() {
		f(string(n.it.Key()[boxAt:]))
	}
	return n.done()
}

// Journal calls f with each noted change of a mailbox above a MODSEQ, in
// order. change is valid during the call.
func (n *Snapshot) Journal(mailbox, above uint64, f func(modseq uint64, change []byte) error) error {
	n.key = key16(n.key, kindJournal, mailbox, above+1)
	for ok := n.it.SeekGE(n.key); ok && bytes.HasPrefix(n.it.Key(), n.key[:9]); ok = n.it.Next() {
		v, err := n.value()
		if err != nil {
			return err
		}
		if err := f(binary.BigEndian.Uint64(n.it.Key()[9:]), v); err != nil {
			return err
		}
	}
	return n.done()
}

// Message returns a stored message and how many rows refer to it. Its Meta is
// valid until the next call.
func (n *Snapshot) Message(id uint64, m *Message) (refs uint32, err error) {
	n.key = key8(n.key, kindRefs, id)
	v, err := n.get()
	haveRefs := err == nil
	if haveRefs {
		r := fields{b: v}
		refs = r.uint32()
	} else if !errors.Is(err, ErrNotFound) {
		return 0, err
	}
	n.key = key8(n.key, kindMessage, id)
	if v, err = n.get(); err != nil {
		return 0, err
	}
	if err := m.decode(v); err != nil {
		return 0, err
	}
	m.ID = id
	if !haveRefs {
		refs = m.Refs
	}
	return refs, nil
}

// Live reports whether the entry at index holds octets of a stored message.
func (n *Snapshot) Live(index uint64) (bool, error) {
	n.key = key8(n.key, kindPart, index)
	if _, err := n.get(); !errors.Is(err, ErrNotFound) {
		return err == nil, err
	}
	n.key = key8(n.key, kindMessage, index<<MessageBits)
	live := n.it.SeekGE(n.key) && n.it.Key()[0] == kindMessage &&
		binary.BigEndian.Uint64(n.it.Key()[1:])>>MessageBits == index
	return live, n.done()
}

// DeadBytes sums the dead octets of the spans of entries that touch
// [first, last].
func (n *Snapshot) DeadBytes(first, last uint64) (int64, error) {
	var sum int64
	n.key = key8(n.key, kindDead, first/DeadSpan)
	for ok := n.it.SeekGE(n.key); ok && n.it.Key()[0] == kindDead; ok = n.it.Next() {
		if binary.BigEndian.Uint64(n.it.Key()[1:]) > last/DeadSpan {
			return sum, nil
		}
		v, err := n.value()
		if err != nil {
			return 0, err
		}
		r := fields{b: v}
		sum += r.signed()
	}
	return sum, n.done()
}

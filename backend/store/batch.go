package store

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Batch gathers the effect of entries until Commit. It is for one goroutine,
// and only one is open at a time.
//
// Methods that begin with Put write a row, over the one that may be there.
// Rows that count in the digest and that can be written over are given as the
// struct that Get or an earlier Put has filled, so that the batch knows what
// was there before.
type Batch struct {
	s      *Store
	st     *State
	b      *pebble.Batch
	key    []byte
	value  []byte
	format uint32 // of st when it was last written
	digest Sum    // what the rows of this batch add to the digest of the store
	err    error

	// References changed in this batch: the rows are not yet visible.
	refs map[uint64]refCount
	dead map[uint64]int64 // octets that died, by span of entries

	answered memory // changed in this batch
}

// NewBatch begins a batch on the state st, which the batch keeps up to date
// and writes with each Commit.
func (s *Store) NewBatch(st *State) *Batch {
	return &Batch{
		s: s, st: st, format: st.Format, b: s.db.NewBatchWithSize(batchSize),
		refs: make(map[uint64]refCount), dead: make(map[uint64]int64), answered: newMemory(),
	}
}

const batchSize = 64 << 10 // octets to begin with

// Empty reports whether nothing was put in.
func (b *Batch) Empty() bool { return b.b.Empty() }

// Size is the octets gathered.
func (b *Batch) Size() int { return b.b.Len() }

// Commit makes the batch visible, together with the state. The batch is empty
// afterwards. Nothing is forced to disk.
func (b *Batch) Commit() error {
	if err := b.putDead(); err != nil {
		return err
	}
	b.st.Digest.Add(b.digest)
	b.digest = Sum{}
	b.set([]byte{kindState}, b.st.encode(b.value[:0]))
	if b.format != b.st.Format {
		b.set([]byte{kindFormat}, putUint(nil, uint64(b.st.Format)))
		b.format = b.st.Format
	}
	if b.err != nil {
		return b.err
	}
	if b.s.room != nil {
		b.s.room.gathered.Add(int64(b.b.Len()))
	}
	if err := b.b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("store: commit: %w", err)
	}
	b.b.Close()
	b.b = b.s.db.NewBatchWithSize(batchSize)
	clear(b.refs)
	clear(b.dead)
	b.answered.clear()
	return nil
}

// Close drops what was not committed.
func (b *Batch) Close() { b.b.Close() }

func (b *Batch) set(key, value []byte) {
	b.value = value
	if err := b.b.Set(key, value, nil); err != nil && b.err == nil {
		b.err = fmt.Errorf("store: %w", err)
	}
}

func (b *Batch) delete(key []byte) {
	if err := b.b.Delete(key, nil); err != nil && b.err == nil {
		b.err = fmt.Errorf("store: %w", err)
	}
}

// put writes a row that counts in the digest and replaces one that counted as
// old. It returns what the row counts.
func (b *Batch) put(key, value []byte, old Sum) Sum {
	b.set(key, value)
	sum := rowSum(key, value)
	b.digest.Add(sum)
	b.digest.Sub(old)
	return sum
}

// PutAccount writes a. New ones get their name row too.
func (b *Batch) PutAccount(a *Account) {
	if a.sum == (Sum{}) {
		b.key = keyName(b.key, kindAccountName, a.Name)
		b.set(b.key, putUint(b.value[:0], a.ID))
	}
	b.key = keyAccount(b.key, a.ID)
	a.sum = b.put(b.key, a.encode(b.value[:0]), a.sum)
}

// DeleteAccount removes a with its subscriptions and what it remembers of the
// senders that it has answered. Its mailboxes must be gone already, and nothing
// else may have been changed in it by this batch: only what is committed is seen.
func (b *Batch) DeleteAccount(a *Account) error {
	it, err := b.s.iterator(key8(nil, kindAccount, a.ID), key8(nil, kindAccount, a.ID+1))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		switch key := it.Key(); {
		case key[sectionAt] == sectionNames:
			b.delete(key)
			b.digest.Sub(rowSum(key, nil))
		case key[sectionAt] == sectionAnswered && len(key) > sectionAt+1:
			k := answeredKey{account: a.ID}
			copy(k.hash[:], key[sectionAt+1:])
			if err := b.setAnswered(&k, Answered{}); err != nil {
				return err
			}
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	b.key = keyName(b.key, kindAccountName, a.Name)
	b.delete(b.key)
	b.key = keyAccount(b.key, a.ID)
	b.delete(b.key)
	b.digest.Sub(a.sum)
	return nil
}

// PutMailbox writes m.
func (b *Batch) PutMailbox(m *Mailbox) {
	b.key = keyMailbox(b.key, m.Account, m.ID)
	m.sum = b.put(b.key, m.encode(b.value[:0]), m.sum)
}

// PutCounters writes c of m.
func (b *Batch) PutCounters(m *Mailbox, c *Counters) {
	b.key = keyCounters(b.key, m.Account, m.ID)
	c.sum = b.put(b.key, c.encode(b.value[:0]), c.sum)
}

// DeleteMailbox removes m with its counters and its journal. Its rows must be
// gone already.
func (b *Batch) DeleteMailbox(m *Mailbox, c *Counters) {
	b.key = keyMailbox(b.key, m.Account, m.ID)
	b.delete(b.key)
	b.digest.Sub(m.sum)
	b.key = keyCounters(b.key, m.Account, m.ID)
	b.delete(b.key)
	b.digest.Sub(c.sum)
	b.DeleteJournal(m.ID, 0, c.ModSeq+1)
}

// PutRow writes a row of a mailbox whose counters are c. old is the row that
// was there, nil for a new one.
func (b *Batch) PutRow(mailbox uint64, c *Counters, w, old *Row) {
	b.key = keyRow(b.key, mailbox, w.UID)
	if old != nil {
		b.value = old.encode(b.value[:0])
		c.Rows.Sub(rowSum(b.key, b.value))
	}
	b.value = w.encode(b.value[:0])
	c.Rows.Add(rowSum(b.key, b.value))
	b.set(b.key, b.value)
}

// DeleteRow removes a row.
func (b *Batch) DeleteRow(mailbox uint64, c *Counters, w *Row) {
	b.key = keyRow(b.key, mailbox, w.UID)
	b.value = w.encode(b.value[:0])
	c.Rows.Sub(rowSum(b.key, b.value))
	b.delete(b.key)
}

// PutJournal notes what a command changed in a mailbox.
func (b *Batch) PutJournal(mailbox, modseq uint64, change []byte) {
	b.key = key16(b.key, kindJournal, mailbox, modseq)
	b.set(b.key, change)
}

// DeleteJournal forgets the journal from MODSEQ from to below to.
func (b *Batch) DeleteJournal(mailbox, from, to uint64) {
	lo, hi := key16(nil, kindJournal, mailbox, from), key16(nil, kindJournal, mailbox, to)
	if err := b.b.DeleteRange(lo, hi, nil); err != nil && b.err == nil {
		b.err = fmt.Errorf("store: %w", err)
	}
}

// PutSubscribed adds a name to the subscriptions of an account or removes it.
// The caller knows that this is a change.
func (b *Batch) PutSubscribed(account uint64, name string, on bool) {
	b.key = keySubscribed(b.key, account, name)
	if on {
		b.put(b.key, b.value[:0], Sum{})
		return
	}
	b.delete(b.key)
	b.digest.Sub(rowSum(b.key, nil))
}

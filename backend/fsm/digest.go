package fsm

import (
	"encoding/binary"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// Comparison is the digests of two replicas at one entry. If they differ it
// does not show which of them is wrong.
type Comparison struct {
	Index  uint64
	Ours   store.Sum
	Theirs store.Sum // of the replica that proposed the command
}

// DigestCommand returns the entry that asks each replica to note its digest. It
// carries what this one noted at the last such entry, so that the others can
// compare.
func (f *FSM) DigestCommand(now int64) []byte {
	index, sum := f.Mark()
	c := &command.Digest{Head: command.Head{Time: now}, MarkIndex: index}
	if index > 0 {
		binary.BigEndian.PutUint64(c.Mark[:8], sum[0])
		binary.BigEndian.PutUint64(c.Mark[8:], sum[1])
	}
	return command.Append(nil, c)
}

// Mark returns the index of the last Digest command and the digest that was
// there.
func (f *FSM) Mark() (index uint64, digest store.Sum) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.MarkIndex, f.st.MarkDigest
}

// mark notes the digest of the state before the entry. Comparing has no effect
// on the state: all replicas do the same with the entry, whatever they find.
func (f *FSM) mark(e *Entry, c *command.Digest) (any, error) {
	f.commit()
	sum := store.Sum{binary.BigEndian.Uint64(c.Mark[:8]), binary.BigEndian.Uint64(c.Mark[8:])}
	if c.MarkIndex != 0 && c.MarkIndex == f.st.MarkIndex && f.cfg.Compared != nil {
		f.cfg.Compared(Comparison{Index: c.MarkIndex, Ours: f.st.MarkDigest, Theirs: sum})
	}
	f.st.MarkIndex, f.st.MarkDigest = e.Index, f.st.Digest
	return &command.Done{}, f.failed
}

// OnCompared replaces Config.Compared.
func (f *FSM) OnCompared(told func(Comparison)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cfg.Compared = told
}

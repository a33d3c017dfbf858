package history

import (
	"hash/fnv"
	"slices"

	"github.com/anishathalye/porcupine"
)

// state is a mailbox. It is never changed, only replaced; rows are shared.
type state struct {
	next   uint32
	modseq uint64
	limit  Limit
	bytes  int64
	rows   []Row // by UID
	keys   []key

	lost     []int // questions that were made and whose answers are not known
	answered int   // questions so far whose answers are known
	named    int   // of them, answers that name the MODSEQ of the state
	changed  int   // of them, changes
}

// key is a delivery that was made.
type key struct {
	name string
	uid  uint32
}

func newState() *state { return &state{next: 1, modseq: 1, limit: Limit{-1, -1}} }

// modelFor is the model for the questions to one account, of which those without an
// answer were done within so many answers or never.
func modelFor(ops []porcupine.Operation, within int) porcupine.Model {
	f := factsOf(ops)
	f.within = within
	return porcupine.Model{
		Init: func() any { return newState() },
		Step: func(s, in, out any) (bool, any) {
			return f.step(s.(*state), in.(Input), out.(Output))
		},
		Equal:             func(a, b any) bool { return equal(a.(*state), b.(*state)) },
		Hash:              func(s any) uint64 { return s.(*state).hash() },
		DescribeOperation: describe,
	}
}

func equal(a, b *state) bool {
	return a == b || a.next == b.next && a.modseq == b.modseq && a.limit == b.limit && a.bytes == b.bytes &&
		slices.Equal(a.rows, b.rows) && slices.Equal(a.keys, b.keys)
}

func (s *state) hash() uint64 {
	h := fnv.New64a()
	put := func(v uint64) {
		var b [8]byte
		for i := range b {
			b[i] = byte(v >> (8 * i))
		}
		h.Write(b[:])
	}
	put(uint64(s.next))
	put(s.modseq)
	put(uint64(s.bytes))
	put(uint64(len(s.keys)))
	for _, r := range s.rows {
		put(uint64(r.UID)<<32 ^ r.Flags)
		put(r.ModSeq)
	}
	return h.Sum64()
}

// step applies a question to a state, and says whether the answer fits.
func step(s *state, in Input, out Output) (bool, *state) {
	switch in.Kind {
	case Append, Deliver:
		return s.add(in, out)
	case Store:
		return s.store(in, out)
	case Expunge:
		return s.expunge(in, out)
	case List:
		return s.list(out), s
	case Rows:
		return s.read(in, out), s
	}
	return out.Bytes == s.bytes && out.Messages == int64(len(s.rows)), s
}

func (s *state) add(in Input, out Output) (bool, *state) {
	if in.Kind == Deliver {
		if i := slices.IndexFunc(s.keys, func(k key) bool { return k.name == in.Key }); i >= 0 {
			return out.unknown || out.Duplicate && out.UID == s.keys[i].uid, s
		}
		if out.Duplicate {
			return false, s
		}
	}
	n := *s
	if in.Limit != nil {
		n.limit = *in.Limit
	}
	if !in.Force && !n.room(in.Size) {
		return out.unknown || out.OverQuota, &n
	}
	if !out.unknown && (out.OverQuota || out.UID != s.next) {
		return false, s
	}
	n.next++
	n.modseq++
	n.bytes += in.Size
	n.rows = append(slices.Clone(s.rows), Row{UID: s.next, Flags: in.Flags, ModSeq: n.modseq, Size: in.Size})
	if in.Kind == Deliver {
		n.keys = append(slices.Clone(s.keys), key{in.Key, s.next})
	}
	return true, &n
}

func (s *state) room(size int64) bool {
	return (s.limit.Bytes < 0 || s.bytes+size <= s.limit.Bytes) &&
		(s.limit.Messages < 0 || int64(len(s.rows))+1 <= s.limit.Messages)
}

func (s *state) store(in Input, out Output) (bool, *state) {
	n := *s
	n.rows = slices.Clone(s.rows)
	var changed, modified []uint32
	for i := range n.rows {
		r := &n.rows[i]
		if !slices.Contains(in.UIDs, r.UID) {
			continue
		}
		if in.Since != nil && r.ModSeq > *in.Since {
			modified = append(modified, r.UID)
			continue
		}
		flags := in.Flags
		switch in.Action {
		case Add:
			flags |= r.Flags
		case Remove:
			flags = r.Flags &^ in.Flags
		}
		if flags != r.Flags {
			r.Flags, r.ModSeq = flags, s.modseq+1
			changed = append(changed, r.UID)
		}
	}
	if len(changed) > 0 {
		n.modseq++
	}
	switch {
	case out.unknown:
		return true, &n
	case !out.Partial && !slices.Equal(out.Modified, modified):
		return false, s
	case !out.Partial && !slices.Equal(out.UIDs, changed):
		return false, s
	case !out.Partial && len(changed) > 0 && out.ModSeq != n.modseq:
		return false, s
	}
	return true, &n
}

func (s *state) expunge(in Input, out Output) (bool, *state) {
	n := *s
	n.rows = nil
	var gone []uint32
	for _, r := range s.rows {
		if r.Flags&Deleted != 0 && slices.Contains(in.UIDs, r.UID) {
			gone = append(gone, r.UID)
			n.bytes -= r.Size
		} else {
			n.rows = append(n.rows, r)
		}
	}
	if len(gone) > 0 {
		n.modseq++
	}
	if !out.unknown && !out.Partial && !slices.Equal(out.UIDs, gone) {
		return false, s
	}
	return true, &n
}

func (s *state) list(out Output) bool {
	if out.Partial {
		return out.UIDNext == s.next && out.ModSeq == s.modseq && out.Messages == int64(len(s.rows)) && out.Bytes == s.bytes
	}
	if out.UIDNext != s.next || out.ModSeq != s.modseq || len(out.UIDs) != len(s.rows) {
		return false
	}
	for i := range s.rows {
		if s.rows[i].UID != out.UIDs[i] {
			return false
		}
	}
	return true
}

// read compares the messages that were asked for; none asked for means all.
func (s *state) read(in Input, out Output) bool {
	i := 0
	for _, r := range s.rows {
		if in.UIDs != nil && !slices.Contains(in.UIDs, r.UID) {
			continue
		}
		if i == len(out.Rows) {
			return false
		}
		got := out.Rows[i]
		if out.Partial {
			got.Size = r.Size
		}
		if got != r {
			return false
		}
		i++
	}
	return i == len(out.Rows)
}

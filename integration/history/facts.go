package history

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"
)

// facts are what the answers to one account say about states, wherever they come
// in the order. Each change has a MODSEQ of its own and each message a UID, so
// that an answer which names one is about one state, one change or one message.
// A search that would find a state wrong at that answer need not go on to it:
// with some twenty questions under way whose answers are never known, it does not
// end otherwise.
type facts struct {
	known   int // questions whose answers are known
	at      map[uint64]*fact
	added   map[uint32]bool // by a question whose answer says so
	removed map[uint32]bool
	kept    map[version]uint64 // a message has this MODSEQ in all states up to here
	alive   map[uint32]uint64  // and is there up to here
	// most is how many changes at most whose answers are not known come before the
	// last of so many answers that name the MODSEQ of the state.
	most []int
	// within is how many answers later at the most a question without one is done.
	within int
}

// version is a message since one of its changes.
type version struct {
	uid    uint32
	modseq uint64
}

// fact is what is known of the state that has one MODSEQ.
type fact struct {
	lists   []Output
	rows    []seenRow
	changed []uint32 // the messages that got it from a Store, if that is known
}

// seenRow is a message as it was made, or last changed, with one MODSEQ.
type seenRow struct {
	Row
	sized bool
}

func factsOf(ops []porcupine.Operation) *facts {
	f := &facts{
		at: map[uint64]*fact{}, added: map[uint32]bool{}, removed: map[uint32]bool{},
		kept: map[version]uint64{}, alive: map[uint32]uint64{},
	}
	ended := slices.Clone(ops)
	slices.SortFunc(ended, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	asked := slices.Clone(ops)
	slices.SortFunc(asked, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	least := uint64(0) // what MODSEQ was at least when the next was asked
	changed := 0       // known changes that were made by then
	for _, o := range asked {
		for ; ended[0].Return < o.Call; ended = ended[1:] {
			in, out := ended[0].Input.(Input), ended[0].Output.(Output)
			least = max(least, named(out))
			if changes(in.Kind, out) {
				changed++
			}
		}
		in, out := o.Input.(Input), o.Output.(Output)
		if out.unknown {
			continue
		}
		f.known++
		f.learn(in.Kind, out, least)
		if names(in.Kind, out) {
			before := changed
			if in.Kind == Store {
				before++
			}
			f.most = append(f.most, int(out.ModSeq)-1-before)
		}
	}
	slices.Sort(f.most)
	return f
}

// number numbers the questions whose answers are not known. Of those that ask the same
// it does not matter which was answered, so the one asked first comes first.
func number(ops []porcupine.Operation) {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var ends []int64
	for _, o := range ops {
		if !o.Output.(Output).unknown {
			ends = append(ends, o.Return)
		}
	}
	slices.Sort(ends)
	n, last := 0, map[string]int{}
	for i, o := range ops {
		in := o.Input.(Input)
		if !o.Output.(Output).unknown {
			continue
		}
		n++
		in.from, _ = slices.BinarySearch(ends, o.Call)
		same := fmt.Sprint(in.Kind, in.Size, in.Key, in.Force, in.UIDs, in.Action, in.Flags)
		if in.Limit != nil {
			same += fmt.Sprint(*in.Limit)
		}
		if in.Since != nil {
			same += fmt.Sprint(" since ", *in.Since)
		}
		in.lost, in.twin = n, last[same]
		last[same], ops[i].Input = n, in
	}
}

// changes reports whether an answer says that something was changed.
func changes(kind Kind, out Output) bool {
	switch kind {
	case Append, Deliver:
		return !out.unknown && !out.OverQuota && !out.Duplicate
	case Store, Expunge:
		return len(out.UIDs) > 0
	}
	return false
}

// names reports whether an answer names the MODSEQ of the state that it comes from.
func names(kind Kind, out Output) bool {
	return kind == List || kind == Store && !out.Partial && len(out.UIDs) > 0
}

// named is the highest MODSEQ that an answer names.
func named(out Output) uint64 {
	m := out.ModSeq
	for _, r := range out.Rows {
		m = max(m, r.ModSeq)
	}
	return m
}

// learn notes an answer that was given when MODSEQ was at least that.
func (f *facts) learn(kind Kind, out Output, least uint64) {
	least = max(least, named(out))
	switch kind {
	case Append, Deliver:
		if !out.OverQuota && !out.Duplicate {
			f.added[out.UID] = true
		}
	case Store:
		if !out.Partial && len(out.UIDs) > 0 {
			f.of(out.ModSeq).changed = out.UIDs
		}
	case Expunge:
		for _, uid := range out.UIDs {
			f.removed[uid] = true
		}
	case List:
		s := f.of(out.ModSeq)
		s.lists = append(s.lists, out)
		for _, uid := range out.UIDs {
			f.alive[uid] = max(f.alive[uid], out.ModSeq)
		}
	case Rows:
		for _, r := range out.Rows {
			s := f.of(r.ModSeq)
			s.rows = append(s.rows, seenRow{r, !out.Partial})
			v := version{r.UID, r.ModSeq}
			f.kept[v] = max(f.kept[v], least)
			f.alive[r.UID] = max(f.alive[r.UID], least)
		}
	}
}

func (f *facts) of(modseq uint64) *fact {
	if f.at[modseq] == nil {
		f.at[modseq] = new(fact)
	}
	return f.at[modseq]
}

// step is that of the model, in an order that can be one as far as the facts go.
//
// A question whose answer is not known comes where it changes something, or after
// all others: where it changes nothing it can as well come last.
func (f *facts) step(s *state, in Input, out Output) (bool, *state) {
	if out.unknown && s.answered == f.known {
		return true, s
	}
	ok, n := step(s, in, out)
	if !ok || n.modseq != s.modseq && !f.allow(s, n, out.unknown) {
		return false, s
	}
	if out.unknown {
		// Of any so many answers and one more at least one is still to come.
		if s.named < len(f.most) && int(n.modseq)-1-n.changed > f.most[s.named] {
			return false, s
		}
		if s.answered > in.from+f.within {
			return false, s
		}
		if in.twin > 0 && !slices.Contains(s.lost, in.twin) {
			return false, s
		}
		after := *n
		after.lost = append(slices.Clone(s.lost), in.lost)
		return !equal(s, n), &after
	}
	after := *n
	after.answered++
	if n.modseq != s.modseq {
		after.changed++
	}
	if names(in.Kind, out) {
		after.named++
	}
	return true, &after
}

// allow reports whether n may follow s. unknown: no answer tells of this change.
func (f *facts) allow(s, n *state, unknown bool) bool {
	if unknown {
		if n.next != s.next && f.added[s.next] {
			return false
		}
		if len(n.rows) < len(s.rows) && slices.ContainsFunc(s.rows, func(r Row) bool { return f.removed[r.UID] && n.row(r.UID) == nil }) {
			return false
		}
	}
	for _, r := range s.rows {
		switch now := n.row(r.UID); {
		case now == nil && f.alive[r.UID] >= n.modseq, (now == nil || now.ModSeq != r.ModSeq) && f.kept[version{r.UID, r.ModSeq}] >= n.modseq:
			return false
		}
	}
	at := f.at[n.modseq]
	if at == nil {
		return true
	}
	for _, uid := range at.changed {
		if r := n.row(uid); r == nil || r.ModSeq != n.modseq {
			return false
		}
	}
	for _, want := range at.rows {
		r := n.row(want.UID)
		if r == nil || r.ModSeq != want.ModSeq || r.Flags != want.Flags || want.sized && r.Size != want.Size {
			return false
		}
	}
	return !slices.ContainsFunc(at.lists, func(l Output) bool { return !n.list(l) })
}

// row returns the message with a UID, nil if there is none.
func (s *state) row(uid uint32) *Row {
	i, ok := slices.BinarySearchFunc(s.rows, uid, func(r Row, uid uint32) int { return int(r.UID) - int(uid) })
	if !ok {
		return nil
	}
	return &s.rows[i]
}

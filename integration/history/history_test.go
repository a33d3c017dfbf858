package history

import (
	"math/rand/v2"
	"testing"
	"time"
)

// op is a question with its answer, asked after the ones before it were answered.
type op struct {
	in  Input
	out Output
}

var (
	twelve = &Limit{Bytes: 1000, Messages: 2}
	three  = uint64(3)
)

func deliver(key string, size int64, out Output) op {
	return op{Input{Kind: Deliver, Key: key, Size: size, Limit: twelve}, out}
}

func list(modseq uint64, next uint32, uids ...uint32) op {
	return op{Input{Kind: List}, Output{UIDs: uids, UIDNext: next, ModSeq: modseq}}
}

// TestModel holds the model to what a mailbox may and may not answer.
func TestModel(t *testing.T) {
	one := deliver("one", 100, Output{UID: 1})
	two := op{Input{Kind: Append, Size: 200}, Output{UID: 2}}
	del := op{Input{Kind: Store, UIDs: []uint32{1, 9}, Action: Add, Flags: Deleted}, Output{UIDs: []uint32{1}, ModSeq: 4}}
	purge := op{Input{Kind: Expunge, UIDs: []uint32{1, 2}}, Output{UIDs: []uint32{1}}}
	for name, tt := range map[string]struct {
		ops []op
		bad bool
	}{
		"all is well":            {[]op{one, two, list(3, 3, 1, 2), del, purge, list(5, 3, 2), {Input{Kind: Usage}, Output{Bytes: 200, Messages: 1}}}, false},
		"rows":                   {[]op{one, {Input{Kind: Rows, UIDs: []uint32{1}}, Output{Rows: []Row{{1, 0, 2, 100}}}}}, false},
		"a row too many":         {[]op{one, {Input{Kind: Rows, UIDs: []uint32{1}}, Output{Rows: []Row{{1, 0, 2, 100}, {2, 0, 2, 100}}}}}, true},
		"a row too few":          {[]op{one, {Input{Kind: Rows}, Output{}}}, true},
		"a flag is lost":         {[]op{one, two, del, {Input{Kind: Rows, UIDs: []uint32{1}}, Output{Rows: []Row{{1, 0, 2, 100}}}}}, true},
		"a key again":            {[]op{one, deliver("one", 100, Output{UID: 1, Duplicate: true}), list(2, 2, 1)}, false},
		"a second copy":          {[]op{one, deliver("one", 100, Output{UID: 2})}, true},
		"duplicate of nothing":   {[]op{deliver("one", 100, Output{UID: 1, Duplicate: true})}, true},
		"UID reused":             {[]op{one, two, del, purge, {Input{Kind: Append, Size: 1}, Output{UID: 1}}}, true},
		"the last UID reused":    {[]op{one, {del.in, Output{UIDs: []uint32{1}, ModSeq: 3}}, purge, {Input{Kind: Append, Size: 1}, Output{UID: 1}}}, true},
		"a message is lost":      {[]op{one, two, list(3, 3, 2)}, true},
		"MODSEQ stays":           {[]op{one, two, del, list(3, 3, 1, 2)}, true},
		"too many messages":      {[]op{one, two, {Input{Kind: Append, Size: 1}, Output{UID: 3}}}, true},
		"refused for messages":   {[]op{one, two, {Input{Kind: Append, Size: 1}, Output{OverQuota: true}}}, false},
		"too many octets":        {[]op{one, deliver("x", 901, Output{UID: 2})}, true},
		"refused for no reason":  {[]op{one, deliver("x", 900, Output{OverQuota: true})}, true},
		"usage of before":        {[]op{one, two, {Input{Kind: Usage}, Output{Bytes: 100, Messages: 1}}}, true},
		"unchanged since":        {[]op{one, two, {Input{Kind: Store, UIDs: []uint32{2}, Flags: 1, Since: &three}, Output{UIDs: []uint32{2}, ModSeq: 4}}}, false},
		"changed since":          {[]op{one, two, del, {Input{Kind: Store, UIDs: []uint32{1}, Flags: 1, Since: &three}, Output{Modified: []uint32{1}}}}, false},
		"changed since, missed":  {[]op{one, two, del, {Input{Kind: Store, UIDs: []uint32{1}, Flags: 1, Since: &three}, Output{UIDs: []uint32{1}, ModSeq: 5}}}, true},
		"expunge of more":        {[]op{one, two, del, {purge.in, Output{UIDs: []uint32{1, 2}}}}, true},
		"no change is no MODSEQ": {[]op{one, {Input{Kind: Store, UIDs: []uint32{1}, Action: Remove, Flags: 1}, Output{}}, list(2, 2, 1)}, false},
	} {
		h := New()
		for _, o := range tt.ops {
			o.in.Account = "eva"
			h.Call(1, o.in).Return(o.out)
		}
		if err := h.Check(time.Minute); (err != nil) != tt.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConcurrent: what overlaps may have happened in either order, what is not
// known may happen at any later time or never, and what was answered counts.
func TestConcurrent(t *testing.T) {
	add := func(size int64) Input { return Input{Account: "eva", Kind: Append, Size: size} }
	usage := func(h *History, octets, messages int64) {
		h.Call(9, Input{Account: "eva", Kind: Usage}).Return(Output{Bytes: octets, Messages: messages})
	}
	for name, tt := range map[string]struct {
		do  func(h *History)
		bad bool
	}{
		"either order": {func(h *History) {
			a, b := h.Call(1, add(1)), h.Call(2, add(2))
			a.Return(Output{UID: 2})
			b.Return(Output{UID: 1})
		}, false},
		"not the same UID": {func(h *History) {
			a, b := h.Call(1, add(1)), h.Call(2, add(2))
			a.Return(Output{UID: 1})
			b.Return(Output{UID: 1})
		}, true},
		"late": {func(h *History) {
			h.Call(1, add(5)).Unknown()
			usage(h, 0, 0)
			usage(h, 5, 1)
		}, false},
		"never": {func(h *History) {
			h.Call(1, add(5)).Unknown()
			h.Call(2, add(7)).Return(Output{UID: 1})
			usage(h, 7, 1)
		}, false},
		"not undone": {func(h *History) {
			h.Call(1, add(5)).Unknown()
			usage(h, 5, 1)
			usage(h, 0, 0)
		}, true},
		"refused is not done": {func(h *History) {
			h.Call(1, add(5)).Drop()
			usage(h, 5, 1)
		}, true},
		"accounts apart": {func(h *History) {
			h.Call(1, add(5)).Return(Output{UID: 1})
			h.Call(1, Input{Account: "bob", Kind: Append, Size: 1}).Return(Output{UID: 1})
		}, false},
	} {
		h := New()
		tt.do(h)
		if err := h.Check(time.Minute); (err != nil) != tt.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestManyUnknown: a history is judged though many changes were under way at
// once when all power went, and nobody knows which of them were made, or in what
// order. A search that tries all orders takes minutes.
func TestManyUnknown(t *testing.T) {
	const messages, changes = 8, 12
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		h, now := New(), newState()
		ask := func(in Input) { // what is answered
			in.Account = "eva"
			call := h.Call(0, in)
			out := Output{}
			now, out = answer(now, in)
			call.Return(out)
		}
		for range messages {
			ask(Input{Kind: Append, Size: int64(100 + rng.IntN(100))})
		}
		var under []Input
		for range changes {
			in := Input{Account: "eva", Kind: Store, Action: Action(rng.IntN(3)), Flags: uint64(rng.IntN(32))}
			switch rng.IntN(4) {
			case 0:
				in = Input{Account: "eva", Kind: Append, Size: int64(100 + rng.IntN(100))}
			case 1:
				in.Kind = Expunge
			}
			for uid := range uint32(messages + 4) {
				if rng.IntN(3) == 0 {
					in.UIDs = append(in.UIDs, uid+1)
				}
			}
			under = append(under, in)
			h.Call(1+len(under), in).Unknown()
		}
		for _, i := range rng.Perm(changes)[:changes/2] { // these were made
			_, now = step(now, under[i], Output{unknown: true})
		}
		for range 3 {
			ask(Input{Kind: List})
			ask(Input{Kind: Rows})
			ask(Input{Kind: Append, Size: 100})
		}
		if err := h.Check(30 * time.Second); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// answer is what a mailbox without a quota answers.
func answer(s *state, in Input) (*state, Output) {
	_, n := step(s, in, Output{unknown: true})
	switch in.Kind {
	case List:
		out := Output{UIDNext: s.next, ModSeq: s.modseq}
		for _, r := range s.rows {
			out.UIDs = append(out.UIDs, r.UID)
		}
		return n, out
	case Rows:
		return n, Output{Rows: s.rows}
	case Usage:
		return n, Output{Bytes: s.bytes, Messages: int64(len(s.rows))}
	case Store:
		out := Output{}
		for _, r := range n.rows {
			if was := s.row(r.UID); was.ModSeq != r.ModSeq {
				out.UIDs, out.ModSeq = append(out.UIDs, r.UID), n.modseq
			}
		}
		return n, out
	case Expunge:
		out := Output{}
		for _, r := range s.rows {
			if n.row(r.UID) == nil {
				out.UIDs = append(out.UIDs, r.UID)
			}
		}
		return n, out
	}
	return n, Output{UID: s.next}
}

// TestManyFaults: a history is judged though several clients ask at the same time
// and what they ask is lost again and again. These took a minute and more when any
// question without an answer could come anywhere behind it.
func TestManyFaults(t *testing.T) {
	const clients, rounds = 6, 80
	for _, seed := range []uint64{0, 4, 5, 15, 16, 19, 22, 29} {
		rng := rand.New(rand.NewPCG(seed, 1))
		h, now := New(), newState()
		lost := 0
		for range rounds {
			var calls []*Call
			var asked []Input
			for client := range clients {
				in := Input{Account: "eva", Kind: Kind(rng.IntN(7)), Action: Action(rng.IntN(3)), Flags: uint64(rng.IntN(32))}
				switch in.Kind {
				case Append, Deliver:
					in.Kind, in.Size, in.Flags = Append, int64(100+rng.IntN(3)), 0
				case Store, Expunge:
					for _, r := range now.rows {
						if rng.IntN(3) == 0 {
							in.UIDs = append(in.UIDs, r.UID)
						}
					}
				}
				calls, asked = append(calls, h.Call(client, in)), append(asked, in)
			}
			fault := rng.IntN(10) == 0
			for _, i := range rng.Perm(clients) {
				switch {
				case !fault:
					var out Output
					now, out = answer(now, asked[i])
					calls[i].Return(out)
				case asked[i].Kind < List:
					lost++
					calls[i].Unknown()
					if rng.IntN(2) == 0 {
						now, _ = answer(now, asked[i])
					}
				}
			}
		}
		if err := h.Check(time.Minute); err != nil {
			t.Errorf("seed %d, %d of %d lost: %v", seed, lost, h.Len(), err)
		}
	}
}

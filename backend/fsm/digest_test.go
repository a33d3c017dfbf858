package fsm

import (
	"testing"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/storetest"
)

// TestDigestCommand lets two replicas compare their digests through the log.
func TestDigestCommand(t *testing.T) {
	var told []Comparison
	equal := 0
	a := start(t, storetest.NewDisk(), Config{})
	defer a.stop()
	b := start(t, storetest.NewDisk(), Config{Compared: func(c Comparison) {
		if c.Ours == c.Theirs {
			equal++
			return
		}
		told = append(told, c)
	}})
	defer b.stop()
	entries := history(t, 9, 40)
	index := uint64(len(entries))
	apply := func(data []byte) {
		index++
		for _, r := range []*FSM{a.FSM, b.FSM} {
			if done, ok := r.Apply([]Entry{{Index: index, Term: 1, Data: data}})[0].(*command.Done); !ok || done.Code != command.OK {
				t.Fatal("digest command refused")
			}
		}
	}
	a.Apply(entries)
	b.Apply(entries)
	apply(a.DigestCommand(1))
	apply(a.DigestCommand(2))
	if len(told) != 0 || equal == 0 {
		t.Fatalf("equal replicas disagree: %+v", told)
	}
	at, sum := b.Mark()
	if want, digest := a.Mark(); at != want || sum != digest || at != index {
		t.Errorf("marks %d %v and %d %v", at, sum, want, digest)
	}
	// The rows of a go wrong between two commands: b is told at the one after.
	a.mu.Lock()
	a.st.Digest.Add(store.Sum{1, 0})
	a.mu.Unlock()
	apply(a.DigestCommand(3))
	apply(a.DigestCommand(4))
	if len(told) != 1 || told[0].Index != index-1 || told[0].Ours == told[0].Theirs {
		t.Errorf("told %+v", told)
	}
	// One that carries nothing, or another entry's, is compared with nothing.
	apply(command.Append(nil, &command.Digest{}))
	apply(command.Append(nil, &command.Digest{MarkIndex: 3}))
	if len(told) != 1 {
		t.Errorf("compared with nothing: %+v", told)
	}
}

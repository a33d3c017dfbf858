package cache

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
)

// TestBlocks: whatever comes and goes, what is found is what was put, and the
// blocks are little larger than what is in them.
func TestBlocks(t *testing.T) {
	tab := newTable(600, 1<<20, func(s string) int { return len(s) })
	tab.pack = func(s string) (packed, bool) { return packed{text: s, domain: org}, len(s) > 0 }
	tab.open = func(k packed) string {
		if k.domain != org {
			t.Errorf("domain %v", k.domain)
		}
		return strings.Clone(k.text)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	last := map[string]string{}
	for n := range 30_000 {
		key := fmt.Sprintf("key%d", rnd.IntN(2000))
		text := strings.Repeat(string(rune('a'+n%26)), rnd.IntN(1500))
		e := &slot[string]{}
		if n%50 == 0 {
			text, e.err = "", directory.ErrNotFound
		} else {
			text = tab.set(e, text)
		}
		name := []byte(key)
		s := tab.shard(tab.hash(name))
		s.mu.Lock()
		tab.put(s, e, key, text)
		s.mu.Unlock()
		last[key] = text
		key = fmt.Sprintf("key%d", rnd.IntN(2000))
		f := tab.get([]byte(key))
		if f.slot == nil {
			continue
		}
		if got, err := f.answer(); got != last[key] || (err != nil) != (f.err != nil) {
			t.Fatalf("%s: %d octets and %v, put %d", key, len(got), err, len(last[key]))
		}
	}
	for i := range tab.shards {
		s := &tab.shards[i]
		live, slots := 0, 0
		s.each(func(e *slot[string]) { live += int(e.key + e.text); slots++ })
		if live != s.live || slots != len(s.m) || slots == 0 || slots > tab.maxSlots || s.bytes > tab.maxBytes {
			t.Errorf("%d octets of %d slots, counted %d of %d; %d", live, slots, s.live, len(s.m), s.bytes)
		}
		if most := tab.maxBytes*5/4 + 8192; cap(s.block.b) > most {
			t.Errorf("a block of %d octets, at most %d", cap(s.block.b), most)
		}
	}
	found := 0
	for key := range last {
		if tab.get([]byte(key)).slot != nil {
			found++
		}
	}
	if n := tab.dropIf(func(key, text string) bool { return last[key] == text }); n != found || tab.len() != 0 {
		t.Errorf("%d of %d dropped, %d left", n, found, tab.len())
	}
	for i := range tab.shards {
		if tab.shards[i].block != nil {
			t.Error("a block is left")
		}
	}
}

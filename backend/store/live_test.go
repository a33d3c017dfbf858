package store_test

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/storetest"
)

// TestLiveEntries compares the entries that hold mail with a map.
func TestLiveEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := store.Open("meta", nil, store.Options{FS: storetest.NewDisk().FS(), MemTableSize: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		st := new(store.State)
		b := s.NewBatch(st)
		live, of := map[uint64]bool{}, map[uint64][]uint64{}
		index := uint64(0)
		for range rapid.IntRange(0, 30).Draw(t, "messages") {
			var parts []store.Extent
			for range rapid.IntRange(0, 3).Draw(t, "parts") {
				index++
				parts = append(parts, store.Extent{Index: index, Len: 5})
			}
			index += uint64(rapid.IntRange(1, 3).Draw(t, "step")) // some entries are no mail
			for n := range uint64(rapid.IntRange(1, 2).Draw(t, "in one entry")) {
				id := index<<store.MessageBits | n
				m := store.Message{ID: id, Refs: 1, Body: []store.Extent{{Index: index, Len: 7}}}
				if n == 0 {
					m.Body = append(m.Body, parts...)
				}
				b.PutMessage(&m)
				for _, e := range m.Body {
					live[e.Index] = true
					if ids := of[e.Index]; !slices.Contains(ids, id) {
						of[e.Index] = append(ids, id)
					}
				}
			}
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		b.Close()
		n, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		first := uint64(rapid.IntRange(0, int(index)+1).Draw(t, "first"))
		last := first + uint64(rapid.IntRange(0, 50).Draw(t, "length"))
		var got, want []uint64
		if err := n.LiveEntries(first, last, func(i uint64) { got = append(got, i) }); err != nil {
			t.Fatal(err)
		}
		for _, i := range slices.Sorted(maps.Keys(live)) {
			if i >= first && i <= last {
				want = append(want, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("live from %d to %d: %v, want %v", first, last, got, want)
		}
		for i := uint64(1); i <= index; i++ {
			var ids []uint64
			if err := n.MessagesOf(i, func(id uint64) { ids = append(ids, id) }); err != nil {
				t.Fatal(err)
			}
			slices.Sort(of[i])
			if !slices.Equal(ids, of[i]) {
				t.Fatalf("messages of entry %d: %v, want %v", i, ids, of[i])
			}
		}
	})
}

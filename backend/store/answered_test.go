package store_test

import (
	"math"
	"testing"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/storetest"
)

// TestAnswered follows the memory of answered senders through batches: what a
// batch reads includes what it wrote, and the digest, the counts and the times
// to forget agree with the rows after each commit.
func TestAnswered(t *testing.T) {
	s, err := store.Open("meta", nil, store.Options{FS: storetest.NewDisk().FS(), OnDiskFailure: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var st store.State
	b := s.NewBatch(&st)
	defer func() { b.Close() }()
	hash := func(n byte) [store.HashSize]byte { return [store.HashSize]byte{n} }
	put := func(account uint64, n byte, until int64) {
		t.Helper()
		if err := b.PutAnswered(account, hash(n), store.Answered{Until: until, Open: n == 1, By: [store.KeySize]byte{n - 1}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(account uint64, n byte, until, count int64) {
		t.Helper()
		if got, err := b.Answered(account, hash(n)); err != nil || got.Until != until || until != 0 && (got.Open != (n == 1) || got.By[0] != n-1) {
			t.Errorf("answered until %+v, want %d: %v", got, until, err)
		}
		if got, err := b.AnsweredCount(account); err != nil || got != count {
			t.Errorf("%d senders, want %d: %v", got, count, err)
		}
	}
	expire := func(now, next int64) {
		t.Helper()
		if got, err := b.Expire(now); err != nil || got != next {
			t.Errorf("next at %d, want %d: %v", got, next, err)
		}
	}
	commit := func() {
		t.Helper()
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		if sum, err := s.Verify(); err != nil || sum != st.Digest {
			t.Fatalf("digest %v, of the rows %v: %v", st.Digest, sum, err)
		}
	}
	put(1, 1, 100)
	put(1, 2, 200)
	put(2, 1, 300)
	put(1, 1, 150) // once more in the same batch
	want(1, 1, 150, 2)
	commit()
	want(1, 1, 150, 2)
	want(2, 1, 300, 1)
	want(3, 1, 0, 0)
	put(1, 1, 400) // again in another batch
	put(1, 2, 200) // no change
	commit()
	expire(199, 200)
	expire(200, 300)
	want(1, 2, 0, 1)
	put(1, 2, 500) // forgotten and answered in one batch
	want(1, 2, 500, 2)
	commit()
	want(1, 2, 500, 2)
	expire(math.MaxInt64-1, math.MaxInt64)
	commit()
	for account := range uint64(3) {
		want(account, 1, 0, 0)
	}
	const many = 5_100 // one call forgets so many, not all
	for i := range many {
		if err := b.PutAnswered(4, [store.HashSize]byte{1: byte(i), 2: byte(i >> 8)}, store.Answered{Until: 600}); err != nil {
			t.Fatal(err)
		}
	}
	commit()
	expire(700, 600)
	commit()
	if n, err := b.AnsweredCount(4); err != nil || n == 0 || n > many/2 {
		t.Errorf("%d senders left of %d: %v", n, many, err)
	}
	expire(700, math.MaxInt64)
	commit()
	if st.Digest != (store.Sum{}) {
		t.Errorf("digest %v of nothing", st.Digest)
	}
}

package mailbox_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
)

// BenchmarkHot is what reading costs beside rows that have been written over
// and over and are all still in memory: counters by deliveries, a row by STORE.
func BenchmarkHot(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{0, 20_000} {
		s := mailboxtest.New(b)
		a, err := s.Account(ctx, "u@example.org")
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := a.Append(ctx, "INBOX", []mailbox.AppendMessage{{Bytes: []byte("Subject: x\r\n\r\n")}}); err != nil {
			b.Fatal(err)
		}
		v, err := a.Open(ctx, "INBOX", false)
		if err != nil {
			b.Fatal(err)
		}
		defer v.Close()
		for i := range n {
			op := []mailbox.StoreOp{mailbox.StoreAdd, mailbox.StoreRemove}[i%2]
			if _, err := v.Store(ctx, []uint32{1}, op, mailbox.FlagSeen, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := v.Sync(ctx, true); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("status/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := a.Status(ctx, "Trash"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("store/%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				op := []mailbox.StoreOp{mailbox.StoreAdd, mailbox.StoreRemove}[i%2]
				if _, err := v.Store(ctx, []uint32{1}, op, mailbox.FlagSeen, nil, nil); err != nil {
					b.Fatal(err)
				}
				if _, err := v.Sync(ctx, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

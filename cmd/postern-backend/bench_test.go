package main

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

func BenchmarkDeliver(b *testing.B) {
	for _, upkeep := range []bool{false, true} {
		name := "alone"
		if upkeep {
			name = "upkeep"
		}
		b.Run(name, func(b *testing.B) { benchDeliver(b, upkeep) })
	}
}

// benchDeliver delivers 10 KB messages from 32 senders to a store that has mail,
// half of it deleted, alone or while that is compacted and all of it scrubbed
// again and again at the default rate.
func benchDeliver(b *testing.B, busy bool) {
	n := &node{t: b, dir: b.TempDir(), clock: time.Now(), seg: 4 << 20, group: true, rate: 20 << 20}
	n.start()
	defer n.stop()
	n.fill(b)
	if _, err := n.upkeep.snapshot("", false); err != nil {
		b.Fatal(err)
	}
	n.expunge(eva, func(uid uint32) bool { return uid%2 == 0 })
	n.clock = n.clock.Add(2 * time.Hour)
	n.deliver(eva, 1, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var freed, scrubbed int64
	go func() {
		defer close(done)
		for busy && ctx.Err() == nil {
			c, err := n.upkeep.compact(ctx)
			if err != nil && ctx.Err() == nil {
				b.Error(err)
			}
			r, err := n.upkeep.scrub(ctx)
			if err != nil && ctx.Err() == nil {
				b.Error(err)
			}
			freed, scrubbed = freed+c.Freed, scrubbed+r.Octets
		}
	}()
	body := text(7, 10<<10)
	b.SetBytes(int64(len(body)))
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := n.boxes.Deliver(context.Background(), &mailbox.Delivery{Message: body, Recipients: []mailbox.DeliveryRecipient{{Account: "ann@example.org"}}})
			if err != nil || res[0].Err != nil {
				b.Error(res, err)
			}
		}
	})
	cancel()
	<-done
	b.ReportMetric(float64(freed)/1e6, "MB-freed")
	b.ReportMetric(float64(scrubbed)/1e6, "MB-scrubbed")
}

// fill delivers 20 MB of mail.
func (n *node) fill(b *testing.B) {
	var wg sync.WaitGroup
	for from := range 64 {
		wg.Go(func() {
			for i := range 32 {
				_, err := n.boxes.Deliver(context.Background(), &mailbox.Delivery{
					Message: text(100*from+i, 10<<10), Recipients: []mailbox.DeliveryRecipient{{Account: eva}},
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkScrub reads 20 MB of mail as fast as it can: the time is what a scrub
// takes of the CPU, beside the disk.
func BenchmarkScrub(b *testing.B) {
	n := &node{t: b, dir: b.TempDir(), clock: time.Now(), seg: 4 << 20, group: true, rate: 1 << 40}
	n.start()
	defer n.stop()
	n.fill(b)
	for b.Loop() {
		r, err := n.upkeep.scrub(b.Context())
		if err != nil || r.Messages < 2000 {
			b.Fatal(r, err)
		}
		b.SetBytes(r.Octets)
	}
}

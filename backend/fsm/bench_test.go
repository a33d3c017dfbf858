package fsm

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
)

// cpuTime is what the process has used, its background work included: on a
// shared machine it says more than the clock.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkDeliver applies deliveries with keys, in batches of 64 entries, to
// a store on disk: the state machine alone, without log and network. The
// bodies are short since the state machine does not read them.
func benchmarkDeliver(b *testing.B, recipients, accounts int) {
	rows, err := store.Open(b.TempDir(), nil, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	f, err := New(Config{Store: rows, Hub: new(notify.Hub), Fatal: func(err error) { b.Fatal(err) }})
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	defer f.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	names := make([]string, accounts)
	for i := range names {
		names[i] = fmt.Sprintf("user%06d@example.test", i)
	}
	const batch = 64
	meta := make([]byte, 500)
	entries := make([]Entry, 0, batch)
	index, now := uint64(0), time.Now().UnixNano()
	push := func(c command.Command) {
		index++
		entries = append(entries, Entry{Index: index, Term: 1, Data: command.Append(nil, c)})
		if len(entries) == batch {
			f.Apply(entries)
			entries = entries[:0]
		}
	}
	for _, name := range names {
		push(&command.Account{Head: command.Head{Time: now}, Name: name, Seed: 1})
	}
	c := delivery(0, 100, now)
	c.Message.Meta = meta
	c.Recipients = make([]command.Recipient, recipients)
	b.ReportAllocs()
	cpu := cpuTime()
	b.ResetTimer()
	for b.Loop() {
		c.Time += 1000
		binary.LittleEndian.PutUint64(c.Message.Hash[:], rng.Uint64())
		at := rng.IntN(accounts)
		for i := range c.Recipients {
			rc := &c.Recipients[i]
			rc.Account = names[(at+i)%accounts]
			binary.LittleEndian.PutUint64(rc.Key[:], rng.Uint64())
			binary.LittleEndian.PutUint64(rc.Key[8:], rng.Uint64())
		}
		push(c)
	}
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N*recipients), "cpu-µs/delivery")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(b.N*recipients)/b.Elapsed().Seconds(), "deliveries/s")
}

func BenchmarkDeliverOne(b *testing.B)      { benchmarkDeliver(b, 1, 1000) }
func BenchmarkDeliverOneOf50k(b *testing.B) { benchmarkDeliver(b, 1, 50_000) }
func BenchmarkDeliverHundred(b *testing.B)  { benchmarkDeliver(b, 100, 1000) }

package rotate

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/ha/drill/mailbox"
	"github.com/postern-mail/postern/integration/cluster"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

const (
	runName  = "rotate"
	bodySize = 2000
	senders  = 4
)

// bench is a cluster under load, with users at work.
type bench struct {
	t       *testing.T
	c       *cluster.Cluster
	access  *mailbox.Access
	book    *ledger.Ledger
	judge   *cluster.Judge
	probers []*mailbox.Prober
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// begin starts senders at every relay, and for each relay a user who works in one
// session by it.
func begin(t *testing.T, c *cluster.Cluster, rate int) *bench {
	t.Helper()
	info := c.Info()
	b := &bench{t: t, c: c, book: ledger.New(), access: &mailbox.Access{TLS: c.TLS(), Dial: dial, Timeout: 10 * time.Second}}
	var load struct {
		Doors      []ledger.Door
		Recipients []string
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	t.Cleanup(func() { cancel(); b.wg.Wait() })
	// Those who work come first, and are of the first pair, which stays.
	users := slices.Clone(info.Users)
	slices.SortStableFunc(users, func(a, b cluster.User) int { return strings.Compare(a.Pair, b.Pair) })
	all := make([]mailbox.User, len(users))
	for i, u := range users {
		all[i] = mailbox.User{Login: u.Login, Password: u.Password, Address: u.Address}
	}
	for i, r := range info.Relays {
		door := ledger.Door{Name: r.Name, Addr: r.IMAPS}
		load.Doors = append(load.Doors, ledger.Door{Name: r.Name, Addr: r.SMTP})
		b.access.Doors = append(b.access.Doors, door)
		one := &mailbox.Access{TLS: c.TLS(), Doors: []ledger.Door{door}, Dial: dial, Timeout: 10 * time.Second}
		b.probers = append(b.probers, &mailbox.Prober{Access: one, User: all[i], Every: 50 * time.Millisecond})
	}
	b.judge = &cluster.Judge{Access: b.access, Book: b.book, Run: runName, Size: bodySize}
	for _, u := range all[len(info.Relays):] {
		load.Recipients = append(load.Recipients, u.Address)
		b.judge.Watch(t, u)
	}
	for w := range senders {
		s := &sender{doors: load.Doors, recipients: load.Recipients, every: senders * time.Second / time.Duration(rate)}
		b.wg.Go(func() { s.run(ctx, t, b.book, w) })
	}
	for _, p := range b.probers {
		b.wg.Go(func() { p.Run(ctx) })
	}
	return b
}

// must runs the operator's tool.
func (b *bench) must(args ...string) string {
	b.t.Helper()
	out, err := b.c.Postern(args...)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// await waits for a state of the cluster.
func (b *bench) await(within time.Duration, what string, ok func(*cluster.Status) bool) {
	b.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		s, err := b.c.Status()
		if err == nil && ok(&s) {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("no %s after %v: %v, %+v", what, within, err, s)
		}
	}
}

func (b *bench) ready(within time.Duration) {
	b.t.Helper()
	b.await(within, "nodes all ready", allReady)
}

func allReady(s *cluster.Status) bool {
	for _, n := range s.Nodes {
		if n.State != "ready" {
			return false
		}
	}
	return len(s.Nodes) > 0
}

// flows waits until n more messages are acknowledged.
func (b *bench) flows(n int) {
	b.t.Helper()
	from, _, _ := b.book.Counts()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if now, _, _ := b.book.Counts(); now >= from+n {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("no %d messages in 30 s: %v", n, b.book.Refusals())
		}
	}
}

// end stops the load; no session must have been broken, and in every mailbox is
// what was acknowledged, once.
func (b *bench) end() {
	b.t.Helper()
	b.cancel()
	b.wg.Wait()
	answers := 0
	for i, p := range b.probers {
		good, bad, last, faults := p.Answers()
		answers += len(good)
		if len(bad) > 0 {
			b.t.Errorf("the session by relay %d was broken %d times: %s", i+1, len(bad), last)
		}
		if len(good) == 0 {
			b.t.Errorf("the user by relay %d got no answer", i+1)
		}
		for _, f := range faults {
			b.t.Error(f)
		}
	}
	b.await(30*time.Second, "empty queues", func(s *cluster.Status) bool {
		n := 0
		for _, q := range s.Queues {
			n += q.Queued
		}
		return n == 0
	})
	_, refused, unknown := b.judge.Mailboxes(b.t)
	b.t.Logf("%d answers to users", answers)
	if refused+unknown > 0 {
		b.t.Errorf("%d messages were refused: %v, %d have no answer", refused, b.book.Refusals(), unknown)
	}
}

// decode runs the tool with --output json.
func decode[T any](b *bench, args ...string) (v T) {
	b.t.Helper()
	out := b.must(append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		b.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return v
}

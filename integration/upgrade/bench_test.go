package upgrade

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/ha/drill/mailbox"
	"github.com/postern-mail/postern/integration/cluster"
)

const (
	runName  = "upgrade"
	bodySize = 2000
)

// bench is a cluster under load, with readers, and what was measured.
type bench struct {
	t      *testing.T
	c      *cluster.Cluster
	access *mailbox.Access
	book   *ledger.Ledger
	boxes  *cluster.Judge
	load   *ledger.Load
	prober *mailbox.Prober

	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	logins []time.Time // that succeeded
	steps  []step
}

// step is a node that was replaced, or a fault.
type step struct {
	phase, name string
	from, to    time.Time
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// begin starts the load: senders at both relays, a user who works in one session,
// and one who logs in again and again.
func begin(t *testing.T, c *cluster.Cluster, rate int) *bench {
	t.Helper()
	info := c.Info()
	b := &bench{t: t, c: c, book: ledger.New()}
	b.access = &mailbox.Access{TLS: c.TLS(), Dial: dial, Timeout: 5 * time.Second}
	b.access.TLS.ServerName = ""
	load := &ledger.Load{Run: runName, Senders: 4, Rate: rate, Size: bodySize, Timeout: 20 * time.Second, Dial: dial}
	for _, r := range info.Relays {
		load.Doors = append(load.Doors, ledger.Door{Name: r.Name, Addr: r.SMTP})
		b.access.Doors = append(b.access.Doors, ledger.Door{Name: r.Name, Addr: r.IMAPS})
	}
	all := make([]mailbox.User, len(info.Users))
	for i, u := range info.Users {
		all[i] = mailbox.User{Login: u.Login, Password: u.Password, Address: u.Address}
	}
	b.load = load
	worker, visitor := all[0], all[1]
	b.boxes = &cluster.Judge{Access: b.access, Book: b.book, Run: runName, Size: bodySize}
	for _, u := range all[2:] {
		load.Recipients = append(load.Recipients, u.Address)
		b.boxes.Watch(t, u)
	}
	b.prober = &mailbox.Prober{Access: b.access, User: worker, Every: 50 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	t.Cleanup(func() { cancel(); b.wg.Wait() })
	b.wg.Go(func() {
		if err := load.Send(ctx, b.book); err != nil {
			t.Error(err)
		}
	})
	b.wg.Go(func() { b.prober.Run(ctx) })
	b.wg.Go(func() { b.visit(ctx, visitor) })
	return b
}

// visit logs in, looks and leaves, all the time.
func (b *bench) visit(ctx context.Context, u mailbox.User) {
	for ctx.Err() == nil {
		if _, err := b.access.Mark(ctx, u); err == nil {
			b.mu.Lock()
			b.logins = append(b.logins, time.Now())
			b.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// quiet waits until the queues are empty: what was accepted is delivered.
func (b *bench) quiet(within time.Duration) {
	b.t.Helper()
	b.await(within, "empty queues", func(s *cluster.Status) bool {
		n := 0
		for _, q := range s.Queues {
			n += q.Queued
		}
		return n == 0 && len(s.Queues) > 0
	})
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

// ready waits until every node is.
func (b *bench) ready(within time.Duration) {
	b.t.Helper()
	b.await(within, "nodes all ready", func(s *cluster.Status) bool {
		for _, n := range s.Nodes {
			if n.State != "ready" {
				return false
			}
		}
		return len(s.Nodes) > 0
	})
}

// pass lets mail flow for a while.
func (b *bench) pass(d time.Duration) {
	b.t.Helper()
	before, _, _ := b.book.Counts()
	select {
	case <-time.After(d):
	case <-b.t.Context().Done():
	}
	if after, _, _ := b.book.Counts(); after == before {
		b.t.Errorf("no mail was accepted for %v", d)
	}
}

// upgrade runs `postern upgrade` and notes when each node's turn began and ended.
func (b *bench) upgrade(phase string, args ...string) {
	b.t.Helper()
	args = append(append([]string{"upgrade"}, args...), "--dir", b.c.Dir, "--drain-timeout", "3s")
	cmd := exec.Command(filepath.Join(b.c.Bin, "postern"), args...)
	pipe, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var said []string
	began := map[string]time.Time{}
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		line := lines.Text()
		said = append(said, line)
		node, what, _ := strings.Cut(line, ": ")
		switch {
		case what == "drains":
			began[node] = time.Now()
		case strings.HasPrefix(what, "runs "):
			b.note(phase, node, began[node])
		}
	}
	if err := cmd.Wait(); err != nil {
		b.t.Fatalf("postern %s: %v\n%s", strings.Join(args, " "), err, strings.Join(said, "\n"))
	}
	if len(began) == 0 {
		b.t.Fatalf("postern %s has done nothing", strings.Join(args, " "))
	}
}

// note ends a step. The second after it belongs to it: what a replaced node does
// to others shows then.
func (b *bench) note(phase, name string, from time.Time) {
	b.steps = append(b.steps, step{phase, name, from, time.Now().Add(time.Second)})
}

// end stops the load, logs the gaps of every step and compares them with what is
// allowed.
func (b *bench) end() {
	b.t.Helper()
	b.cancel()
	b.wg.Wait()
	acks := b.book.Acks()
	answers, _, _, faults := b.prober.Answers()
	for _, f := range faults {
		b.t.Error("reader: " + f)
	}
	var out strings.Builder
	for _, s := range b.steps {
		bound := stepBound
		if strings.HasPrefix(s.name, "kill") {
			bound = faultBound
		}
		fmt.Fprintf(&out, "| %s | %s |", s.phase, s.name)
		for i, at := range [][]time.Time{acks, answers, b.logins} {
			gap := ledger.Longest(at, s.from, s.to).Length()
			fmt.Fprintf(&out, " %d ms |", gap.Milliseconds())
			if gap > bound {
				b.t.Errorf("%s, %s: %s had no answer for %v, over %v", s.phase, s.name, [...]string{"the sender", "the reader", "the login"}[i], gap, bound)
			}
		}
		out.WriteString("\n")
	}
	b.t.Logf("longest time without an answer\n| phase | step | sender | reader | login |\n|---|---|---|---|---|\n%s", out.String())
}

// judge reads every mailbox and compares it with the ledger.
func (b *bench) judge() {
	b.t.Helper()
	ok, _, _ := b.boxes.Mailboxes(b.t)
	if ok < 200 {
		b.t.Errorf("only %d messages were acknowledged", ok)
	}
}

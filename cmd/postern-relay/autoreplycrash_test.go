package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/autoreply"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

// life is one run of a relay, which ends after an operation on its disk or
// beside a call to the network.
type life struct {
	fs    *faultfs.FS
	diskN int // the operation after which it ends, 0: none
	netN  int // the moment before or after a call, 0: none
	net   int // moments so far
	over  bool
}

// moment passes one moment of the network.
func (l *life) moment() bool {
	if l.net++; l.net == l.netN {
		l.over = true
		l.fs.CrashAfter(l.fs.Ops())
	}
	return !l.dead()
}

func (l *life) dead() bool { return l.over || l.diskN > 0 && l.fs.Ops() >= l.diskN }

// mortal lets a life end before and after a call of an agent.
type mortal struct {
	*life
	autoreply.Pairs
	next deliver.Agent
}

var errDead = errors.New("this relay is dead")

func (m mortal) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	if !m.moment() {
		return deliver.All(d, deliver.Result{Outcome: deliver.Unknown, Err: errDead})
	}
	res := m.next.Deliver(ctx, d)
	if !m.moment() {
		return deliver.All(d, deliver.Result{Outcome: deliver.Unknown, Err: errDead})
	}
	return res
}

func (m mortal) Claim(ctx context.Context, env *mail.Envelope, c *mail.AutoreplyClaim) deliver.Result {
	if !m.moment() {
		return deliver.Result{Outcome: deliver.Unknown, Err: errDead}
	}
	res := m.Pairs.Claim(ctx, env, c)
	if !m.moment() {
		return deliver.Result{Outcome: deliver.Unknown, Err: errDead}
	}
	return res
}

// story is one message to bob, who is away, and all that becomes of it.
type story struct {
	t      *testing.T
	routes *route.Table
	x      *answering
	mode   transaction.Mode
	sender mail.Address
	told   bool     // the client has heard 250
	sent   []string // answers, in order
}

// live runs a relay: the client sends unless it has heard 250, and the queue is
// worked on until it is empty. It reports whether the relay is still alive.
func (s *story) live(name string, l *life) bool {
	s.t.Helper()
	r, err := openTwin(s.t, s.routes, s.x, place{
		name: name, dir: "/q", fs: l.fs, sent: &s.sent, mode: func(mail.Channel, string) transaction.Mode { return s.mode },
		around: func(p autoreply.Pairs) autoreply.Pairs { return mortal{l, p, p} },
	})
	if err != nil {
		if !l.dead() {
			s.t.Fatal(err)
		}
		return false
	}
	defer func() { _ = r.close() }() // fails on a dead disk
	if !s.told {
		s.told = s.send(r) && !l.dead()
	}
	out := r.agent.Gate(mortal{life: l, next: outside{r.sent}})
	for again := true; again && !l.dead(); {
		again = false
		err := r.queue.Scan(s.t.Context(), func(it *queue.Item) error {
			again = true
			agent := deliver.Agent(r.agent)
			if it.Recipients[0].Channel == mail.ChannelSMTP {
				agent = out
			}
			if res := r.attempt(it, agent); !res.Outcome.Done() {
				return res.Err
			}
			return r.queue.Remove(it, false)
		})
		if err != nil && !l.dead() {
			s.t.Fatal(err)
		}
	}
	return !l.dead()
}

func (s *story) send(r *twin) bool {
	ctx := s.t.Context()
	tx, err := r.door.Begin(ctx, mail.Envelope{ReversePath: s.sender}, transaction.Source{Protocol: "ESMTP"})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := tx.Rcpt(ctx, mail.Recipient{Address: mail.Address{Local: "bob", Domain: "example.test"}}); err != nil {
		s.t.Fatal(err)
	}
	return tx.Data(ctx, transaction.Content{Bytes: []byte(toBob + "Subject: hi\r\n\r\nbody\r\n")}).OK()
}

// check compares what was sent with what may have been: one answer. It may have
// been sent twice when the relay ended after it had left for the first time.
func (s *story) check(what string, before int) {
	s.t.Helper()
	slices.Sort(s.sent)
	kinds := len(slices.Compact(slices.Clone(s.sent)))
	if kinds != 1 || len(s.sent) > 1+min(before, 1) {
		s.t.Errorf("%s: %d answers, %d of them different, %d before the end", what, len(s.sent), kinds, before)
	}
}

// TestAutoreplyCrash ends a relay after each operation on its disk, and before
// and after each call to a pair or to the world, while it takes a message to
// somebody who is away, delivers it, queues the answer, claims it and sends it. It
// goes on with what was written, and with what a power cut leaves, and the client
// tries again, by the same relay or by another one, if it has heard nothing.
// Whatever happens, the sender gets one answer.
func TestAutoreplyCrash(t *testing.T) {
	routes, _, _ := servePair(t)
	bob := mail.Address{Local: "bob", Domain: "example.test"}
	x := &answering{&mail.Autoreply{Mode: mail.AutoreplyReply, From: bob, Me: []mail.Address{bob}, Text: "Away.\n", Timeout: time.Hour}}
	n := 0
	begin := func(mode transaction.Mode) *story {
		n++
		return &story{t: t, routes: routes, x: x, mode: mode, sender: mail.Address{Local: fmt.Sprint("ann", n), Domain: "example.net"}}
	}
	states := uint64(3)
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		states = 12
	}
	for name, mode := range map[string]transaction.Mode{"through": transaction.Through, "queued": transaction.Local} {
		whole := &life{fs: faultfs.New(1)}
		s := begin(mode)
		if !s.live("relay1", whole) || !s.told || len(s.sent) != 1 {
			t.Fatalf("%s: the script does not work without a crash: %d answers", name, len(s.sent))
		}
		s.check(name, 0)
		ends := make([]life, 0, whole.fs.Ops()+whole.net)
		for at := 1; at <= whole.fs.Ops(); at++ {
			ends = append(ends, life{diskN: at})
		}
		for at := 1; at <= whole.net; at++ {
			ends = append(ends, life{netN: at})
		}
		for _, end := range ends {
			for state := range states + 1 {
				for _, client := range []string{"relay1", "relay2"} {
					l := end
					l.fs = faultfs.New(1)
					if l.diskN > 0 {
						l.fs.CrashAfter(l.diskN)
					}
					s := begin(mode)
					s.live("relay1", &l)
					before := len(s.sent)
					what := fmt.Sprintf("%s, ended after operation %d or moment %d, state %d, client at %s", name, l.diskN, l.netN, state, client)
					disk := l.fs
					if state > 0 { // else killed, with all that was written
						disk = l.fs.Crash(state - 1)
					}
					disk.CrashAfter(1 << 40)
					if client == "relay2" && !s.told && !s.live("relay2", &life{fs: faultfs.New(2)}) {
						t.Fatal(what)
					}
					if !s.live("relay1", &life{fs: disk}) {
						t.Fatal(what)
					}
					s.check(what, before)
				}
			}
		}
	}
	t.Logf("%d ends", n)
	if n < 200 {
		t.Error("the test tests nothing")
	}
}

// killDoor is a door at which the process dies.
type killDoor struct{}

func (killDoor) Inject(context.Context, transaction.Injection, []byte) error {
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// TestAutoreplyKilled kills a relay, a process of its own, when the pair has the
// message and the answer is about to be queued. The client has heard nothing and
// sends the message again by another relay: one answer.
func TestAutoreplyKilled(t *testing.T) {
	bob := mail.Address{Local: "bob", Domain: "example.test"}
	x := &answering{&mail.Autoreply{Mode: mail.AutoreplyReply, From: bob, Me: []mail.Address{bob}, Text: "Away.\n", Timeout: time.Hour}}
	if addr, dir, ok := strings.Cut(os.Getenv("POSTERN_TEST_RELAY"), " "); ok { // the relay
		routes := new(route.Table)
		routes.Update(route.Node{Name: "pair1-a", Pair: "pair1", Alive: true, Serving: true, Addr: map[route.Service]string{route.LMTP: addr}})
		r, err := openTwin(t, routes, x, place{name: "relay1", dir: dir, door: func(autoreply.Door) autoreply.Door { return killDoor{} }})
		if err != nil {
			t.Fatal(err)
		}
		r.send(toBob)
		t.Fatal("not killed")
	}
	routes, boxes, _ := servePair(t)
	dir := filepath.Join(t.TempDir(), "relay1")
	c := exec.Command(os.Args[0], "-test.run=^TestAutoreplyKilled$")
	c.Env = append(os.Environ(), "POSTERN_TEST_RELAY="+routes.Candidates("pair1")[0].Addr[route.LMTP]+" "+dir)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the relay was not killed: %v\n%s", err, out)
	}
	acc, err := boxes.Account(t.Context(), "bob@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := acc.Status(t.Context(), "INBOX"); err != nil || info.Messages != 1 {
		t.Fatalf("killed before the pair had the message: %d messages, %v", info.Messages, err)
	}
	second := newTwin(t, "relay2", routes, x)
	second.send(toBob)
	second.leave()
	first, err := openTwin(t, routes, x, place{name: "relay1", dir: dir, sent: second.sent}) // is started again
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	first.leave()
	first.send(toBob)
	first.leave()
	if len(*second.sent) != 1 {
		t.Errorf("%d answers", len(*second.sent))
	}
}

package transaction

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// TestMain lets benchmarks start this program again as another role.
func TestMain(m *testing.M) {
	if Role != nil && Role() {
		return
	}
	goleak.VerifyTestMain(m)
}

// Role is set by the external tests: it plays the part that the environment
// names, and reports whether there was one.
var Role func() bool

// names expands what tests write: "ok@p1" is a user whose pair p1 answers "ok".
type names struct{}

func (names) Rcpt(ctx context.Context, _ *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	final := func(a string, via ...string) mail.Recipient {
		f := r
		f.Address, _ = mail.ParseAddress(a, true)
		f.Via = via
		f.Channel, f.NextHop, f.Mailbox = mail.ChannelLMTP, f.Address.Domain, a
		return f
	}
	local, domain := r.Address.Local, r.Address.Domain
	switch {
	case local == "list":
		r.Channel = mail.ChannelReprocess
		return []mail.Recipient{r}, nil
	case strings.HasPrefix(local, "small"):
		f := final(strings.TrimPrefix(local, "small-") + "@" + domain)
		f.MaxSize = int64(len(text)) - 1
		return []mail.Recipient{f}, nil
	case strings.HasPrefix(local, "exact"):
		f := final("ok@" + domain)
		f.MaxSize = int64(len(text))
		return []mail.Recipient{f}, nil
	case local == "forward":
		f := final("out@elsewhere.example", r.Address.String())
		f.Channel, f.Mailbox = mail.ChannelSMTP, ""
		return []mail.Recipient{f}, nil
	case local == "twice":
		return []mail.Recipient{final("ok@p1"), final("OK@p1"), final("ok@p2")}, nil
	case local == "nowhere":
		return nil, nil
	case local == "drop":
		r.Channel = mail.ChannelDiscard
		return []mail.Recipient{r}, nil
	case local == "held":
		r.Channel = mail.ChannelHold
		return []mail.Recipient{r}, nil
	case local == "down":
		return nil, &mail.Error{Op: "expand", Status: mail.StatusDirectoryFailure, Reply: "Directory not available"}
	case strings.HasPrefix(domain, "p"):
		if strings.HasPrefix(local, "none") || local == "postmaster" {
			return nil, &mail.Error{Op: "expand", Status: mail.StatusBadMailbox, Reply: "No such user"}
		}
		return []mail.Recipient{final(local + "@" + domain)}, nil
	}
	r.Channel, r.NextHop = mail.ChannelSMTP, domain
	return []mail.Recipient{r}, nil
}

// backends answers as the mailbox's name says.
type backends struct {
	mu    sync.Mutex
	asked map[string][]mail.DeliveryKey
	body  string
	dead  bool // probes fail
	quick bool // "slow" answers after all
}

func (b *backends) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	out := make([]deliver.Result, len(d.Recipients))
	slow := false
	b.mu.Lock()
	if b.asked == nil {
		b.asked = map[string][]mail.DeliveryKey{}
	}
	b.body = ""
	for _, s := range d.Body {
		b.body += string(s)
	}
	for i, r := range d.Recipients {
		b.asked[r.NextHop] = append(b.asked[r.NextHop], r.Key)
		name := strings.ToLower(r.Mailbox)
		switch {
		case strings.HasPrefix(name, "ok"):
			out[i] = deliver.Result{Outcome: deliver.Delivered, Code: 250, Status: mail.StatusDelivered}
		case strings.HasPrefix(name, "temp"):
			out[i] = deliver.Result{Outcome: deliver.Deferred, Code: 452, Status: mail.StatusOverQuota, Text: "over quota"}
		case strings.HasPrefix(name, "perm"):
			out[i] = deliver.Result{Outcome: deliver.Failed, Code: 552, Status: mail.Status{5, 2, 2}, Text: "full"}
		case strings.HasPrefix(name, "slow") && b.quick:
			out[i] = deliver.Result{Outcome: deliver.Delivered, Code: 250}
		case strings.HasPrefix(name, "slow"):
			slow = true
			out[i] = deliver.Result{Outcome: deliver.Deferred, Busy: true, Status: mail.StatusNoAnswer}
		default:
			out[i] = deliver.Result{Outcome: deliver.Unknown, Busy: true}
		}
	}
	b.mu.Unlock()
	if slow {
		<-ctx.Done()
	}
	return out
}

func (b *backends) Probe(context.Context, string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return errors.New("dead")
	}
	return nil
}

// shelf is a queue in memory.
type shelf struct {
	items    []*queue.Item
	bodies   []string
	full     bool  // at Reserve
	broken   error // at Submit
	reserved int
}

func (s *shelf) Reserve(int64, int) (queue.Reservation, error) {
	s.reserved++
	if s.full {
		return queue.Reservation{}, queue.ErrFull
	}
	return queue.Reservation{}, nil
}

func (s *shelf) Load(id string) (*queue.Item, error) {
	for _, it := range s.items {
		if it.ID() == id {
			return it, nil
		}
	}
	return nil, queue.ErrNotFound
}

func (s *shelf) Submit(_ context.Context, _ *queue.Reservation, it *queue.Item, body ...[]byte) error {
	if s.broken != nil {
		return s.broken
	}
	var all []byte
	for _, b := range body {
		all = append(all, b...)
	}
	for _, o := range s.items {
		if o.ID() == it.ID() {
			return queue.ErrExists
		}
	}
	s.items, s.bodies = append(s.items, it), append(s.bodies, string(all))
	return nil
}

type house struct {
	*Acceptor
	b backends
	q shelf
}

func newHouse(t *testing.T, change ...func(*Config)) *house {
	t.Helper()
	h := &house{}
	cfg := Config{Hostname: "relay.example", Origin: "relay1", Domain: "p1", Expander: names{}, Queue: &h.q, Pairs: &h.b}
	for _, c := range change {
		c(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	h.Acceptor = a
	return h
}

var client = Source{Client: netip.MustParseAddrPort("192.0.2.1:999"), Helo: "mx.example.net", Protocol: "ESMTP", MayRelay: true}

const text = "From: a\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"

// send runs one transaction and returns the reply.
func (h *house) send(t *testing.T, src Source, env mail.Envelope, msg string, rcpts ...string) *smtp.Reply {
	t.Helper()
	tx, err := h.Begin(t.Context(), env, src)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rcpts {
		a, err := mail.ParseAddress(r, true)
		if err != nil {
			t.Fatal(r, err)
		}
		if err := tx.Rcpt(t.Context(), mail.Recipient{Address: a}); err != nil {
			t.Fatal(r, err)
		}
	}
	return tx.Data(t.Context(), Content{Bytes: []byte(msg)})
}

var ann = mail.Envelope{ReversePath: mail.Address{Local: "ann", Domain: "example.net"}}

// TestMergedOutcomes is the table of architecture.md 2.
func TestMergedOutcomes(t *testing.T) {
	const none = ""
	for _, tt := range []struct {
		name   string
		rcpts  string
		full   bool // no room to reserve
		broken bool // Submit fails
		null   bool // null reverse-path
		code   int
		queued string // what the queue then holds: address:state
		asked  bool
	}{
		{"one committed", "ok@p1", false, false, false, 250, none, true},
		{"two pairs committed", "ok@p1 ok@p2", false, false, false, 250, none, true},
		{"all committed, disk broken", "ok@p1 ok@p2", false, true, false, 250, none, true},
		{"one refused", "perm@p1", false, false, false, 552, none, true},
		{"all refused", "perm@p1 perm2@p1 perm@p2", false, false, false, 552, none, true},
		{"all refused, disk broken", "perm@p1", false, true, false, 552, none, true},
		{"one deferred", "temp@p1", false, false, false, 250, "temp@p1:pending", true},
		{"one deferred, disk broken", "temp@p1", false, true, false, 451, none, true},
		{"all deferred", "temp@p1 temp@p2", false, false, false, 250, "temp@p1:pending temp@p2:pending", true},
		{"unknown", "lost@p1", false, false, false, 250, "lost@p1:pending:unknown", true},
		{"unknown, disk broken", "lost@p1", false, true, false, 451, none, true},
		{"committed and deferred", "ok@p1 temp@p1", false, false, false, 250, "temp@p1:pending", true},
		{"committed and deferred elsewhere", "ok@p1 temp@p2", false, false, false, 250, "temp@p2:pending", true},
		{"committed and refused", "ok@p1 perm@p2", false, false, false, 250, "perm@p2:failed", true},
		{"committed and refused, null sender", "ok@p1 perm@p2", false, false, true, 250, none, true},
		{"committed and unknown", "ok@p1 lost@p2", false, false, false, 250, "lost@p2:pending:unknown", true},
		{"deferred and refused", "temp@p1 perm@p2", false, false, false, 250, "temp@p1:pending perm@p2:failed", true},
		{"deferred and refused, disk broken", "temp@p1 perm@p2", false, true, false, 451, none, true},
		{"all kinds", "ok@p1 temp@p1 perm@p2 lost@p3", false, false, false, 250, "temp@p1:pending perm@p2:failed lost@p3:pending:unknown", true},
		{"committed and deferred, disk broken", "ok@p1 temp@p2", false, true, false, 451, none, true},
		{"no room", "ok@p1", true, false, false, 452, none, false},
		{"outside", "x@elsewhere.example", false, false, false, 250, "x@elsewhere.example:pending", false},
		{"outside, disk broken", "x@elsewhere.example", false, true, false, 451, none, false},
		{"outside and committed", "x@elsewhere.example ok@p1", false, false, false, 250, "x@elsewhere.example:pending", true},
		{"outside and refused", "x@elsewhere.example perm@p1", false, false, false, 250, "x@elsewhere.example:pending perm@p1:failed", true},
		{"list", "list@p1", false, false, false, 250, "list@p1:pending", false},
		{"held", "held@p1", false, false, false, 250, "held@p1:pending", false},
		{"discarded", "drop@p1", false, false, false, 250, none, false},
		{"nobody", "nowhere@p1", true, true, false, 250, none, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			h.q.full = tt.full
			if tt.broken {
				h.q.broken = errors.New("input/output error")
			}
			env := ann
			if tt.null {
				env = mail.Envelope{}
			}
			r := h.send(t, client, env, text, strings.Fields(tt.rcpts)...)
			if r.Code != tt.code {
				t.Errorf("reply %v, want %d", r, tt.code)
			}
			var queued []string
			for _, it := range h.q.items {
				for _, q := range it.Recipients {
					s := q.Address.String() + ":" + q.State.String()
					if q.Unknown {
						s += ":unknown"
					}
					queued = append(queued, s)
				}
			}
			slices.Sort(queued)
			want := strings.Fields(tt.queued)
			slices.Sort(want)
			if !slices.Equal(queued, want) {
				t.Errorf("queued %v, want %v", queued, want)
			}
			if (len(h.b.asked) > 0) != tt.asked {
				t.Errorf("pairs asked: %v", h.b.asked)
			}
			for i, body := range h.q.bodies {
				if body != h.b.body && h.b.body != "" || !strings.HasSuffix(body, text) {
					t.Errorf("queued body differs from the one sent:\n%q\n%q", body, h.b.body)
				}
				for _, q := range h.q.items[i].Recipients {
					if q.Channel == mail.ChannelLMTP && !slices.Contains(h.b.asked[q.NextHop], q.Key) {
						t.Errorf("%v is queued under another key", q.Address)
					}
				}
			}
		})
	}
}

func TestSuccessReportsAreQueued(t *testing.T) {
	h := newHouse(t)
	tx, _ := h.Begin(t.Context(), ann, client)
	for _, local := range []string{"ok1", "ok2"} {
		r := mail.Recipient{Address: mail.Address{Local: local, Domain: "p1"}}
		if local == "ok2" {
			r.Notify = mail.NotifySuccess
		}
		if err := tx.Rcpt(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if r := tx.Data(t.Context(), Content{Bytes: []byte(text)}); r.Code != 250 {
		t.Fatal(r)
	}
	if len(h.q.items) != 1 || len(h.q.items[0].Recipients) != 1 || h.q.items[0].Recipients[0].State != queue.Delivered || h.q.items[0].Recipients[0].Address.Local != "ok2" {
		t.Errorf("queued %+v", h.q.items)
	}
}

func TestReceived(t *testing.T) {
	h := newHouse(t)
	h.send(t, client, ann, text, "ok@p1")
	head, rest, _ := strings.Cut(h.b.body, "From: a")
	if strings.Count(head, "Received:") != 1 || !strings.Contains(head, "mx.example.net") || !strings.Contains(head, "192.0.2.1") ||
		!strings.Contains(head, "by relay.example") || strings.Contains(head, "ok@p1") || !strings.HasSuffix(text, rest) {
		t.Errorf("sent %q", h.b.body)
	}
}

func TestLoop(t *testing.T) {
	h := newHouse(t)
	if r := h.send(t, client, ann, strings.Repeat("Received: from x by y\r\n", 50)+text, "ok@p1"); r.Code != 250 {
		t.Errorf("50 hops: %v", r)
	}
	if r := h.send(t, client, ann, strings.Repeat("received : from x by y\r\n", 51)+text, "ok@p1"); r.Code != 554 || r.Status != mail.StatusLoop {
		t.Errorf("51 hops: %v", r)
	}
	if r := h.send(t, client, ann, text+strings.Repeat("Received: in the body\r\n", 60), "ok@p1"); r.Code != 250 {
		t.Errorf("text that looks like hops: %v", r)
	}
	own := "Received: from x\r\n\t(using y) BY Relay.example; today\r\n"
	for n, want := range map[int]int{10: 250, 11: 554} {
		msg := strings.Repeat(own, n) + "Received: from relay.example by y\r\n" + text
		if r := h.send(t, client, ann, msg, "ok@p1"); r.Code != want {
			t.Errorf("%d hops by this relay: %v", n, r)
		}
	}
}

func TestDuplicateRecipients(t *testing.T) {
	h := newHouse(t)
	h.send(t, client, ann, text, "twice@p1", "ok@p1", "x@elsewhere.example", "X@Elsewhere.example")
	if len(h.b.asked["p1"]) != 1 || len(h.b.asked["p2"]) != 1 || len(h.q.items[0].Recipients) != 1 {
		t.Errorf("asked %v, queued %v", h.b.asked, h.q.items)
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("ok%d@p1", i%50))
	}
	h.b.asked = nil
	h.send(t, client, ann, text, many...)
	if len(h.b.asked["p1"]) != 50 {
		t.Errorf("%d of 50 asked", len(h.b.asked["p1"]))
	}
}

func TestPostmaster(t *testing.T) {
	h := newHouse(t)
	if r := h.send(t, client, mail.Envelope{}, text, "postmaster"); r.Code != 250 || len(h.q.items) != 1 || h.q.items[0].Recipients[0].Channel != mail.ChannelHold {
		t.Errorf("without an address: %v %+v", r, h.q.items)
	}
	h = newHouse(t, func(c *Config) { c.Postmaster = mail.Address{Local: "ok-boss", Domain: "p2"} })
	if r := h.send(t, client, mail.Envelope{}, text, "Postmaster@p1", "postmaster"); r.Code != 250 || len(h.b.asked["p2"]) != 1 {
		t.Errorf("with an address: %v, %v", r, h.b.asked)
	}
}

func TestRelaying(t *testing.T) {
	stranger := client
	stranger.MayRelay = false
	h := newHouse(t)
	tx, _ := h.Begin(t.Context(), ann, stranger)
	for addr, ok := range map[string]bool{"ok@p1": true, "x@elsewhere.example": false, "forward@p1": true, "none@p1": false, "down@p1": false, "postmaster": true} {
		a, _ := mail.ParseAddress(addr, false)
		err := tx.Rcpt(t.Context(), mail.Recipient{Address: a})
		if (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
		if addr == "down@p1" && mail.Permanent(err) {
			t.Errorf("%s: %v is permanent", addr, err)
		}
	}
}

// TestSlowPair: a pair that misses its deadline is bypassed until it answers.
func TestSlowPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var ready []string
		h.OnReady(func(p string) { ready = append(ready, p) })
		h.b.dead = true
		begin := time.Now()
		if r := h.send(t, client, ann, text, "slow@p1", "ok@p2"); r.Code != 250 || time.Since(begin) != 5*time.Second {
			t.Errorf("%v after %v", r, time.Since(begin))
		}
		if got := h.Bypassed(); len(got) != 1 || got[0] != "p1" {
			t.Fatalf("bypassed %v", got)
		}
		for range 20 { // nobody waits now, and probes fail
			begin = time.Now()
			if r := h.send(t, client, ann, text, "slow@p1"); r.Code != 250 || time.Since(begin) != 0 {
				t.Errorf("%v after %v", r, time.Since(begin))
			}
			synctest.Wait()
			time.Sleep(300 * time.Millisecond)
		}
		if n := len(h.b.asked["p1"]); n != 1 {
			t.Errorf("asked %d times", n)
		}
		h.b.mu.Lock()
		h.b.dead, h.b.quick = false, true
		h.b.mu.Unlock()
		time.Sleep(time.Minute)
		h.send(t, client, ann, text, "slow@p1") // starts a probe
		synctest.Wait()
		before := len(h.q.items)
		h.send(t, client, ann, text, "slow@p1") // the trial
		h.send(t, client, ann, text, "slow@p1")
		if n := len(h.b.asked["p1"]); n != 3 || len(h.q.items) != before || len(h.Bypassed()) != 0 || len(ready) != 1 {
			t.Errorf("asked %d times, %d queued, bypassed %v, ready %v", n, len(h.q.items)-before, h.Bypassed(), ready)
		}
	})
}

func TestTrialThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		waited := 0
		for range 200 {
			begin := time.Now()
			h.send(t, client, ann, text, "slow@p1")
			if time.Since(begin) > 0 {
				waited++
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
		// Probes succeed and trials do not: pauses grow, few clients wait.
		if waited < 3 || waited > 30 {
			t.Errorf("%d of 200 clients waited", waited)
		}
		if len(h.q.items) != 200 {
			t.Errorf("%d queued", len(h.q.items))
		}
	})
}

func TestAnsweredByQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.send(t, client, ann, text, "slow@p1")
		h.Answered("p1")
		if len(h.Bypassed()) != 0 {
			t.Error("still bypassed")
		}
	})
}

// TestInject: mail of our own is the same mail every time.
func TestInject(t *testing.T) {
	h := newHouse(t)
	env := mail.Envelope{QueueID: mail.NewQueueID(), RootID: "root", Origin: "relay9", Arrival: time.Unix(1, 0)}
	in := Injection{Envelope: env, Report: true, Recipients: []mail.Recipient{{Address: mail.Address{Local: "ok", Domain: "p1"}}}}
	for range 2 {
		if err := h.Inject(t.Context(), in, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.q.items) != 1 || h.q.bodies[0] != text || len(h.b.asked) != 0 {
		t.Fatalf("queued %d, %q", len(h.q.items), h.q.bodies)
	}
	it := h.q.items[0]
	if it.ID() != env.QueueID || it.Envelope.RootID != "root" || !it.Report || it.Recipients[0].Key != mail.NewDeliveryKey("relay9", "root", "ok@p1") {
		t.Errorf("queued %+v", it)
	}
	in.Envelope.QueueID = mail.NewQueueID()
	in.Recipients[0].Address.Local = "none"
	if err := h.Inject(t.Context(), in, []byte(text)); !mail.Permanent(err) {
		t.Errorf("unknown user: %v", err)
	}
	in.Recipients[0].Address.Local = "down"
	if err := h.Inject(t.Context(), in, []byte(text)); err == nil || mail.Permanent(err) {
		t.Errorf("directory down: %v", err)
	}
	h.q.full = true
	in.Recipients[0].Address.Local = "ok"
	if err := h.Inject(t.Context(), in, []byte(text)); err == nil || mail.Permanent(err) {
		t.Errorf("queue full: %v", err)
	}
}

// What comes back by the channel reprocess is queued as expansion left it,
// once, with who had logged in.
func TestInjectFinal(t *testing.T) {
	h := newHouse(t)
	h.send(t, client, ann, text, "list@p1")
	parent := h.q.items[0]
	in := Injection{Envelope: parent.Envelope, Final: true}
	in.Envelope.QueueID, in.Envelope.AuthUser = mail.NewQueueID(), "eve@p1"
	for _, a := range []string{"ok1@p1", "none@p1", "ok1@p1"} {
		r := mail.Recipient{Channel: mail.ChannelLMTP, NextHop: "p1", Mailbox: a}
		r.Address, _ = mail.ParseAddress(a, true)
		in.Recipients = append(in.Recipients, r)
	}
	for range 2 {
		if err := h.Inject(t.Context(), in, []byte(h.q.bodies[0])); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.q.items) != 2 || h.q.bodies[1] != h.q.bodies[0] {
		t.Fatalf("%d queued, bodies %q", len(h.q.items), h.q.bodies)
	}
	child := h.q.items[1]
	if child.ID() != in.Envelope.QueueID || child.Envelope.RootID != parent.ID() || len(child.Recipients) != 2 || child.Envelope.AuthUser != "eve@p1" ||
		child.Recipients[0].Key != mail.NewDeliveryKey("relay1", parent.ID(), "ok1@p1") || child.Envelope.Arrival != parent.Envelope.Arrival {
		t.Errorf("child %+v", child)
	}
}

// A message that is too big for some is delivered to the others, and those are
// reported; one that is too big for all is refused.
func TestTooBig(t *testing.T) {
	h := newHouse(t)
	if r := h.send(t, client, ann, text, "small-ok@p1"); r.Code != 552 || r.Status != (mail.Status{5, 2, 3}) || len(h.q.items) != 0 || len(h.b.asked) != 0 {
		t.Errorf("too big for all: %v, %d queued, asked %v", r, len(h.q.items), h.b.asked)
	}
	if r := h.send(t, client, ann, text, "exact@p1"); r.Code != 250 || len(h.q.items) != 0 {
		t.Errorf("at the limit: %v, %d queued", r, len(h.q.items))
	}
	for _, order := range [][]string{{"small-ok3@p1", "ok3@p1"}, {"ok3@p1", "small-ok3@p1"}, {"small-ok@p1", "exact@p1"}} {
		if r := h.send(t, client, ann, text, order...); r.Code != 250 || len(h.q.items) != 0 {
			t.Errorf("%v, too big on one way only: %v, %d queued", order, r, len(h.q.items))
		}
	}
	if r := h.send(t, client, ann, text, "ok@p1", "small-none@p1", "ok2@p2"); r.Code != 250 || len(h.q.items) != 1 {
		t.Fatalf("too big for one: %v, %d queued", r, len(h.q.items))
	}
	if it := h.q.items[0]; len(it.Recipients) != 1 || it.Recipients[0].State != queue.Failed || it.Recipients[0].Answer.Code != 552 || it.Recipients[0].Address.Local != "none" {
		t.Errorf("%+v", it.Recipients)
	}
}

// Who captures the mail of a sender gets it once, whoever the recipients are.
func TestCopies(t *testing.T) {
	h := newHouse(t)
	h.Acceptor.cfg.Load().Copies = func(_ context.Context, env *mail.Envelope) ([]mail.Recipient, error) {
		if env.ReversePath.Local == "down" {
			return nil, errors.New("down")
		}
		return []mail.Recipient{{Address: mail.Address{Local: "audit", Domain: "p9"}, Channel: mail.ChannelLMTP, NextHop: "p9", Mailbox: "ok@p9"}}, nil
	}
	if r := h.send(t, client, ann, text, "ok@p1", "ok2@p1"); r.Code != 250 || len(h.b.asked["p9"]) != 1 || len(h.b.asked["p1"]) != 2 {
		t.Errorf("%v, asked %v", r, h.b.asked)
	}
}

func TestPriority(t *testing.T) {
	for field, want := range map[string]mail.Priority{
		"Priority: urgent\r\n": mail.Urgent, "priority:\r\n Non-Urgent \r\n": mail.NonUrgent, "Priority: very\r\n": mail.Normal, "": mail.Normal,
	} {
		h := newHouse(t)
		h.send(t, client, ann, field+text, "temp@p1")
		if got := h.q.items[0].Envelope.Priority; got != want {
			t.Errorf("%q: %d, want %d", field, got, want)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte("Received: x\r\nPriority: urgent\r\nMessage-ID:\r\n <x>\r\n\r\nbody"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h := inspect(b, "y"); h.own > h.received || h.received > len(b) || len(h.messageID) > 256 {
			t.Errorf("%+v", h)
		}
	})
}

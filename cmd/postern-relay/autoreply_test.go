package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/lmtpd"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/autoreply"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// answering is the directory of a relay: bob is away, everybody else is
// elsewhere.
type answering struct{ reply *mail.Autoreply }

func (x *answering) Rcpt(_ context.Context, _ *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	if r.Address.Domain != "example.test" {
		r.Channel, r.NextHop = mail.ChannelSMTP, r.Address.Domain
		return []mail.Recipient{r}, nil
	}
	own := *x.reply
	r.Channel, r.NextHop, r.Mailbox, r.Autoreply = mail.ChannelLMTP, "pair1", r.Address.Key(), &own
	return []mail.Recipient{r}, nil
}

// twin is one of two relays in front of one pair: all that an autoreply meets,
// without the network before it and after it.
type twin struct {
	t     *testing.T
	door  *transaction.Acceptor
	agent *autoreply.Agent
	queue *queue.Queue
	out   deliver.Agent // where answers go
	sent  *[]string     // the answers that have left
	close func() error
}

// place is where a twin runs: its name, its queue, and what is put around its
// ways out.
type place struct {
	name, dir string
	fs        fsx.FS
	mode      func(mail.Channel, string) transaction.Mode
	around    func(autoreply.Pairs) autoreply.Pairs
	door      func(autoreply.Door) autoreply.Door
	sent      *[]string
}

func newTwin(t *testing.T, name string, routes *route.Table, x transaction.Expander) *twin {
	t.Helper()
	r, err := openTwin(t, routes, x, place{name: name, dir: filepath.Join(t.TempDir(), name)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// openTwin starts a relay.
func openTwin(t *testing.T, routes *route.Table, x transaction.Expander, p place) (*twin, error) {
	q, err := queue.Open(queue.Config{Dir: p.dir, FS: p.fs})
	if err != nil {
		return nil, err
	}
	l, err := lmtp.New(lmtp.Config{Hello: p.name, Routes: routes, Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	var pairs autoreply.Pairs = l
	if p.around != nil {
		pairs = p.around(l)
	}
	a, err := autoreply.New(autoreply.Config{Pairs: pairs, Rules: autoreply.Rules{PerHour: 10_000}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := transaction.New(transaction.Config{
		Hostname: p.name, Origin: p.name, Domain: "example.test", Expander: x, Queue: q, Pairs: a, Mode: p.mode,
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Use(d)
	if p.door != nil {
		a.Use(p.door(d))
	}
	r := &twin{t: t, door: d, agent: a, queue: q, sent: p.sent}
	if r.sent == nil {
		r.sent = new([]string)
	}
	r.out = a.Gate(outside{r.sent})
	r.close = func() error {
		d.Close()
		l.Close()
		return q.Close()
	}
	return r, nil
}

// outside takes what leaves for other domains.
type outside struct{ sent *[]string }

func (o outside) Deliver(_ context.Context, d *deliver.Delivery) []deliver.Result {
	for _, b := range d.Body {
		*o.sent = append(*o.sent, string(b))
	}
	return deliver.All(d, deliver.Result{Outcome: deliver.Relayed, Status: mail.StatusOK})
}

// leave lets the answers in the queue go.
func (r *twin) leave() {
	r.t.Helper()
	err := r.queue.Scan(r.t.Context(), func(it *queue.Item) error {
		if !it.Envelope.ReversePath.IsNull() {
			return nil
		}
		if res := r.attempt(it, r.out); !res.Outcome.Done() {
			return fmt.Errorf("answer %s: %+v", it.ID(), res)
		}
		return r.queue.Remove(it, false)
	})
	if err != nil {
		r.t.Error(err)
	}
}

// attempt delivers a message with one recipient from the queue.
func (r *twin) attempt(it *queue.Item, agent deliver.Agent) deliver.Result {
	body, err := r.queue.Body(it, nil)
	if err != nil {
		return deliver.Defer(mail.StatusNotServing, "queue", err)
	}
	return agent.Deliver(r.t.Context(), &deliver.Delivery{
		Envelope: &it.Envelope, Recipients: []mail.Recipient{it.Recipients[0].Recipient}, Body: [][]byte{body},
	})[0]
}

// send is one message from ann to bob by this relay.
func (r *twin) send(header string) {
	r.t.Helper()
	ctx := r.t.Context()
	tx, err := r.door.Begin(ctx, mail.Envelope{ReversePath: mail.Address{Local: "ann", Domain: "example.net"}}, transaction.Source{Protocol: "ESMTP"})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := tx.Rcpt(ctx, mail.Recipient{Address: mail.Address{Local: "bob", Domain: "example.test"}}); err != nil {
		r.t.Fatal(err)
	}
	if reply := tx.Data(ctx, transaction.Content{Bytes: []byte(header + "Subject: hi\r\n\r\nbody\r\n")}); reply.Code != 250 {
		r.t.Fatal(reply)
	}
}

// queued are the messages in the relay's queue: the answers, and the others.
func (r *twin) queued() (answers []string, rest []*queue.Item) {
	r.t.Helper()
	err := r.queue.Scan(r.t.Context(), func(it *queue.Item) error {
		if !it.Envelope.ReversePath.IsNull() {
			rest = append(rest, it)
			return nil
		}
		b, err := r.queue.Body(it, nil)
		answers = append(answers, string(b))
		if len(it.Recipients) != 1 || it.Recipients[0].Address.String() != "ann@example.net" || it.Recipients[0].Channel != mail.ChannelSMTP {
			r.t.Errorf("answer to %+v", it.Recipients)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return answers, rest
}

// servePair serves a real mail store of one node by LMTP.
func servePair(t *testing.T) (*route.Table, *mailbox.Service, *mailboxtest.Log) {
	t.Helper()
	boxes, log := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Level = func() uint32 { return 2 } })
	srv, err := lmtpd.New(lmtpd.Config{Mailboxes: boxes, Hostname: "pair1-a", PrivateFor: func(*smtp.ConnInfo) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		l.Close()
		cancel()
		<-done
	})
	routes := new(route.Table)
	routes.Update(route.Node{Name: "pair1-a", Pair: "pair1", Alive: true, Serving: true, Addr: map[route.Service]string{route.LMTP: l.Addr().String()}})
	return routes, boxes, log
}

const toBob = "To: bob@example.test\r\n"

// TestAutoreplyOverTwoRelays is the tests of directory.md 10 that are not about
// expansion, on the real store: one memory for all relays.
func TestAutoreplyOverTwoRelays(t *testing.T) {
	routes, boxes, _ := servePair(t)
	bob := mail.Address{Local: "bob", Domain: "example.test"}
	x := &answering{&mail.Autoreply{Mode: mail.AutoreplyReply, From: bob, Me: []mail.Address{bob}, Text: "Away.\n", Timeout: time.Hour}}
	relays := []*twin{newTwin(t, "relay1", routes, x), newTwin(t, "relay2", routes, x)}
	total := func() (n int) {
		for _, r := range relays {
			r.leave()
			n += len(*r.sent)
		}
		return n
	}
	sent := 0
	for _, tt := range []struct {
		name   string
		relay  int
		header string
		change func()
		want   int // answers so far
	}{
		{"the first", 0, toBob, nil, 1},
		{"by the other relay", 1, toBob, nil, 1},
		{"another text", 1, toBob, func() { x.reply.Text = "Away for longer.\n" }, 2},
		{"the same text by the other", 0, toBob, nil, 2},
		{"Bcc", 0, "To: all@example.test\r\n", func() { x.reply.Text = "Back soon.\n" }, 2},
		{"and then not", 0, toBob, nil, 3},
		{"echo", 0, toBob, func() { x.reply.Mode = mail.AutoreplyEcho }, 4},
		{"echo by the other", 1, toBob, nil, 5},
		{"echo for a list's mail", 1, "List-Id: <l.example>\r\n" + toBob, nil, 5},
	} {
		if tt.change != nil {
			tt.change()
		}
		relays[tt.relay].send(tt.header)
		sent++
		if got := total(); got != tt.want {
			t.Errorf("%s: %d answers, want %d", tt.name, got, tt.want)
		}
	}
	// Two messages before an answer has left: either relay has one, one leaves.
	x.reply.Mode, x.reply.Text = mail.AutoreplyReply, "Away for ever.\n"
	for _, r := range relays {
		r.send(toBob)
		sent++
	}
	for _, r := range relays {
		if answers, rest := r.queued(); len(answers) != 1 || len(rest) != 0 {
			t.Errorf("%d answers queued, %d messages left over", len(answers), len(rest))
		}
	}
	if got := total(); got != 6 || !strings.Contains((*relays[0].sent)[0], "\r\nAuto-Submitted: auto-replied\r\n") {
		t.Errorf("%d answers, want 6", got)
	}
	acc, err := boxes.Account(t.Context(), "bob@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := acc.Status(t.Context(), "INBOX"); err != nil || int(info.Messages) != sent {
		t.Errorf("INBOX has %d messages, want %d: %v", info.Messages, sent, err)
	}
}

// TestAutoreplyWhenAway: while the pair does not answer, nobody is answered;
// what was queued is answered once when it is delivered, by the queue's copy of
// what the directory said, also when it is delivered twice.
func TestAutoreplyWhenAway(t *testing.T) {
	routes, boxes, log := servePair(t)
	bob := mail.Address{Local: "bob", Domain: "example.test"}
	x := &answering{&mail.Autoreply{Mode: mail.AutoreplyHeader, From: bob, Me: []mail.Address{bob}, Text: "Away.\n", Timeout: time.Hour}}
	r := newTwin(t, "relay1", routes, x)
	log.SetAway(&mailbox.ErrNotServing{})
	r.send(toBob)
	x.reply = &mail.Autoreply{Mode: mail.AutoreplyReply, From: bob, Text: "not this"}
	answers, rest := r.queued()
	if len(answers) != 0 || len(rest) != 1 {
		t.Fatalf("%d answers, %d queued", len(answers), len(rest))
	}
	log.SetAway(nil)
	other := newTwin(t, "relay2", routes, x) // adopts the message and delivers it again
	body, err := r.queue.Body(rest[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, relay := range []*twin{r, r, other} {
		d := &deliver.Delivery{Envelope: &rest[0].Envelope, Recipients: []mail.Recipient{rest[0].Recipients[0].Recipient}, Body: [][]byte{body}}
		if res := relay.agent.Deliver(t.Context(), d); res[0].Outcome != deliver.Delivered || !res[0].Answer {
			t.Errorf("%+v", res)
		}
	}
	first, _ := r.queued()
	second, _ := other.queued()
	if len(first) != 1 || len(second) != 1 || first[0] != second[0] || !strings.Contains(first[0], "Away.\r\n") {
		t.Errorf("answers %q and %q", first, second)
	}
	acc, err := boxes.Account(t.Context(), "bob@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := acc.Status(t.Context(), "INBOX"); err != nil || info.Messages != 1 {
		t.Errorf("INBOX has %d messages: %v", info.Messages, err)
	}
}

// TestAutoreplyOnly: the mail of a person who only answers is stored nowhere,
// not even in the log.
func TestAutoreplyOnly(t *testing.T) {
	routes, boxes, _ := servePair(t)
	bob := mail.Address{Local: "bob", Domain: "example.test"}
	x := &answering{&mail.Autoreply{Mode: mail.AutoreplyReply, Only: true, From: bob, Text: "Gone.\n", Timeout: time.Hour}}
	relays := []*twin{newTwin(t, "relay1", routes, x), newTwin(t, "relay2", routes, x)}
	for i, header := range []string{toBob, toBob, "Precedence: bulk\r\n" + toBob} {
		relays[i%2].send(header)
	}
	for _, r := range relays {
		r.leave()
		if answers, rest := r.queued(); len(answers)+len(rest) != 0 {
			t.Errorf("%d messages left over", len(answers)+len(rest))
		}
	}
	if one, two := len(*relays[0].sent), len(*relays[1].sent); one != 1 || two != 0 {
		t.Errorf("%d and %d answers", one, two)
	}
	acc, err := boxes.Account(t.Context(), "bob@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := acc.Status(t.Context(), "INBOX"); err != nil || info.Messages != 0 {
		t.Errorf("INBOX has %d messages: %v", info.Messages, err)
	}
}

package transaction_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/bounce"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/relay/deliver/reprocess"
	outbound "github.com/postern-mail/postern/relay/deliver/smtp"
	"github.com/postern-mail/postern/relay/dispatcher"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/jobctl"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/smtpd"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/smtp"
)

// relay is a whole relay, wired as the package doc says.
type relay struct {
	domain string
	addr   string
	q      *queue.Queue
	jobs   *jobctl.Controller
	log    *maillog.Log
	sink   *lmtptest.Sink
	// forward sends a local part of this domain elsewhere, list to many.
	forward map[string]mail.Address
	list    map[string][]string
	x       *expand.Expander // instead of these, when it is not nil
}

// Rcpt is the relay's directory: everybody exists on pair1, but for forwards,
// lists and users called none.
func (r *relay) Rcpt(ctx context.Context, env *mail.Envelope, a mail.Recipient) ([]mail.Recipient, error) {
	if r.x != nil {
		return r.x.Rcpt(ctx, env, a)
	}
	if !strings.EqualFold(a.Address.Domain, r.domain) {
		a.Channel, a.NextHop = mail.ChannelSMTP, a.Address.Domain
		return []mail.Recipient{a}, nil
	}
	if strings.HasPrefix(a.Address.Local, "none") {
		return nil, &mail.Error{Op: "expand", Rcpt: a.Address, Status: mail.StatusBadMailbox, Reply: "User unknown"}
	}
	if to, ok := r.forward[a.Address.Local]; ok {
		a.Via = []string{a.Address.String()}
		a.Address, a.Channel, a.NextHop = to, mail.ChannelSMTP, to.Domain
		return []mail.Recipient{a}, nil
	}
	if _, ok := r.list[a.Address.Local]; ok {
		a.Channel = mail.ChannelReprocess
		return []mail.Recipient{a}, nil
	}
	a.Channel, a.NextHop, a.Mailbox = mail.ChannelLMTP, "pair1", a.Address.Local+"@"+r.domain
	return []mail.Recipient{a}, nil
}

// Again expands a list.
func (r *relay) Again(ctx context.Context, env *mail.Envelope, a mail.Recipient, msg []byte, trace func(expand.Step)) (*expand.Next, error) {
	if r.x != nil {
		return r.x.Again(ctx, env, a, msg, trace)
	}
	n := &expand.Next{}
	for _, m := range r.list[a.Address.Local] {
		one := a
		one.Key = mail.DeliveryKey{}
		one.Address.Local, one.Via = m, []string{a.Address.String()}
		one.Channel, one.NextHop, one.Mailbox = mail.ChannelLMTP, "pair1", m+"@"+r.domain
		n.Recipients = append(n.Recipients, one)
	}
	return n, nil
}

func startRelay(t testing.TB, domain string, zone *dns.Zone, routes map[string]string, change ...func(*transaction.Config)) *relay {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	r := &relay{domain: domain, forward: map[string]mail.Address{}, list: map[string][]string{}}
	var err error
	pair := os.Getenv(sinkEnv)
	if pair == "" {
		r.sink, err = lmtptest.Start(nil)
		must(err)
		pair = r.sink.Addr
	}
	table := new(route.Table)
	table.Update(route.Node{Name: "n0", Pair: "pair1", Alive: true, Serving: true, Addr: map[route.Service]string{route.LMTP: pair}})
	host := "relay." + domain
	r.log, err = maillog.Open(maillog.Config{Node: host, Dir: dir + "/log"})
	must(err)
	r.q, err = queue.Open(queue.Config{Dir: dir + "/queue"})
	must(err)
	pairs, err := lmtp.New(lmtp.Config{Hello: host, Routes: table})
	must(err)
	cfg := transaction.Config{Hostname: host, Origin: host, Domain: domain, Expander: r, Queue: r.q, Pairs: pairs, Mail: r.log}
	for _, c := range change {
		c(&cfg)
	}
	door, err := transaction.New(cfg)
	must(err)
	out, err := outbound.New(outbound.Config{Hello: host, Resolver: zone, Routes: routes})
	must(err)
	bouncer, err := bounce.New(bounce.Config{Hostname: host, Origin: host, Door: door, Mail: r.log})
	must(err)
	again, err := reprocess.New(reprocess.Config{Door: door, Expander: r})
	must(err)
	r.jobs, err = jobctl.New(jobctl.Config{
		Queue: r.q, Reporter: bouncer, Mail: r.log,
		Agents: map[mail.Channel]deliver.Agent{mail.ChannelLMTP: pairs, mail.ChannelSMTP: out, mail.ChannelReprocess: again},
		OnDelivered: func(c mail.Channel, hop string) {
			if c == mail.ChannelLMTP {
				door.Answered(hop)
			}
		},
	})
	must(err)
	r.q.OnSubmit(r.jobs.Submitted)
	door.OnReady(func(pair string) { r.jobs.Wake(mail.ChannelLMTP, pair) })
	service, err := smtpd.New(smtpd.Config{Name: "mx", Role: smtpd.MX, Acceptor: door, Hostname: host, Mail: r.log})
	must(err)
	engine, err := smtp.NewServer(smtp.ServerConfig{Hostname: host, NewSession: service.NewSession})
	must(err)
	d, err := dispatcher.New(dispatcher.Config{Services: []dispatcher.Service{{Name: "mx", Addrs: []string{"127.0.0.1:0"}, Server: engine, MaxConns: 1000}}})
	must(err)
	r.addr = d.Addrs("mx")[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.jobs.Run(ctx) })
	wg.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() {
		stop, end := context.WithTimeout(context.Background(), 5*time.Second)
		defer end()
		_ = d.Shutdown(stop)
		cancel()
		wg.Wait()
		door.Close()
		_ = out.Close()
		_ = pairs.Close()
		if r.sink != nil {
			r.sink.Close()
		}
		_ = r.q.Close()
		_ = r.log.Close()
	})
	return r
}

func address(s string) mail.Address {
	a, err := mail.ParseAddress(s, true)
	if err != nil && s != "" {
		panic(err)
	}
	return a
}

// send gives one message to a relay and returns the final reply.
func send(t testing.TB, addr string, from, body string, to ...smtp.RcptArgs) *smtp.Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := smtp.Dial(ctx, addr, smtp.ClientConfig{Hello: "client.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	res, err := c.Send(ctx, &smtp.Transaction{Mail: smtp.MailArgs{From: address(from)}, Rcpts: to, Body: [][]byte{[]byte(body)}})
	if err != nil {
		t.Fatal(err)
	}
	return res.Final(0)
}

func to(addrs ...string) []smtp.RcptArgs {
	var out []smtp.RcptArgs
	for _, a := range addrs {
		out = append(out, smtp.RcptArgs{To: address(a)})
	}
	return out
}

// await waits until f holds.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

const hello = "From: a\r\nSubject: hi\r\nMessage-ID: <1@x>\r\n\r\nhello\r\n"

func TestThrough(t *testing.T) {
	r := startRelay(t, "a.example", &dns.Zone{}, nil)
	if reply := send(t, r.addr, "eve@b.example", hello, to("bob@a.example", "ann@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	if got := r.sink.Stored(); len(got) != 2 || !strings.HasSuffix(got[0].Body, hello) || r.q.Stats().Messages != 0 {
		t.Errorf("%+v, queue %+v", got, r.q.Stats())
	}
	id := r.sink.Stored()[0].Private["XTRACE"]
	events, err := r.log.Trace(id)
	if err != nil || len(events) != 3 {
		t.Errorf("%d events: %v", len(events), err)
	}
}

// TestPingPong: two relays that forward to each other stop, and the sender
// hears of it once (S11).
func TestPingPong(t *testing.T) {
	zone := &dns.Zone{}
	routes := map[string]string{}
	a := startRelay(t, "a.example", zone, routes)
	b := startRelay(t, "b.example", zone, routes)
	routes["a.example"], routes["b.example"] = a.addr, b.addr
	a.forward["loop"] = address("loop@b.example")
	b.forward["loop"] = address("loop@a.example")
	if reply := send(t, a.addr, "ann@a.example", hello, to("loop@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "notification", func() bool { return len(a.sink.Stored()) > 0 })
	await(t, "empty queues", func() bool { return a.q.Stats().Messages == 0 && b.q.Stats().Messages == 0 })
	got := a.sink.Stored()
	if len(got) != 1 || !got[0].From.IsNull() || !strings.Contains(got[0].Body, "5.4.6") {
		t.Errorf("%d messages, first %+v", len(got), got[0])
	}
	hops := strings.Count(got[0].Body, "\r\nReceived:")
	if hops < 15 || hops > 25 {
		t.Errorf("%d hops", hops)
	}
}

// TestLoopHeld: a relay that holds loops ends one as held, with a reason, and
// what an operator releases goes on.
func TestLoopHeld(t *testing.T) {
	zone := &dns.Zone{}
	routes := map[string]string{}
	hold := func(c *transaction.Config) { c.HoldLoops = true }
	a := startRelay(t, "a.example", zone, routes, hold)
	b := startRelay(t, "b.example", zone, routes, hold)
	routes["a.example"], routes["b.example"] = a.addr, b.addr
	a.forward["loop"] = address("loop@b.example")
	b.forward["loop"] = address("loop@a.example")
	held := func(r *relay) (items []*queue.Item) {
		err := r.q.Scan(t.Context(), func(it *queue.Item) error {
			if it.Held {
				items = append(items, it)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return items
	}
	if reply := send(t, a.addr, "ann@a.example", hello, to("loop@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "the end of the loop", func() bool {
		return len(held(a))+len(held(b)) == 1 && a.q.Stats().Messages+b.q.Stats().Messages == 1
	})
	// What only looks like a loop comes to its mailbox when it is released.
	if reply := send(t, a.addr, "ann@a.example", strings.Repeat("Received: from x by y\r\n", 51)+hello, to("u1@a.example", "u2@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	for _, it := range held(a) {
		if len(it.Recipients) == 2 {
			if !strings.Contains(it.Reason, "mail loop: 51 Received fields") || len(a.sink.Stored()) != 0 {
				t.Errorf("%q, %d stored", it.Reason, len(a.sink.Stored()))
			}
			if err := a.jobs.Release(it.ID()); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, "the released message", func() bool { return len(a.sink.Stored()) == 2 })
}

// TestBounceLoop: a notification that cannot be delivered ends there.
func TestBounceLoop(t *testing.T) {
	zone := &dns.Zone{}
	routes := map[string]string{}
	a := startRelay(t, "a.example", zone, routes)
	b := startRelay(t, "b.example", zone, routes)
	routes["a.example"], routes["b.example"] = a.addr, b.addr
	a.forward["out"] = address("none@b.example")
	for _, from := range []string{"none@b.example", "none@a.example", ""} {
		if reply := send(t, a.addr, from, hello, to("out@a.example")...); reply.Code != 250 {
			t.Fatal(reply)
		}
		await(t, "empty queues", func() bool { return a.q.Stats().Messages == 0 && b.q.Stats().Messages == 0 })
	}
	if n := len(a.sink.Stored()) + len(b.sink.Stored()); n != 0 {
		t.Errorf("%d messages delivered", n)
	}
}

func TestSuccessReport(t *testing.T) {
	a := startRelay(t, "a.example", &dns.Zone{}, nil)
	rcpts := to("bob@a.example")
	rcpts[0].Notify = mail.NotifySuccess
	if reply := send(t, a.addr, "ann@a.example", hello, rcpts...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "report", func() bool { return len(a.sink.Stored()) == 2 })
	if r := a.sink.Stored()[1]; r.To.Local != "ann" || !strings.Contains(r.Body, "Action: delivered") {
		t.Errorf("%+v", r)
	}
}

// TestMixedOutcome: one refused among others is reported, the others are not
// delivered twice.
func TestMixedOutcome(t *testing.T) {
	a := startRelay(t, "a.example", &dns.Zone{}, nil)
	a.sink.Answer = func(r *smtp.RcptArgs) *smtp.Reply {
		if r.To.Local == "full" {
			return &smtp.Reply{Code: 552, Status: mail.Status{5, 2, 2}, Text: "Mailbox full"}
		}
		return nil
	}
	if reply := send(t, a.addr, "ann@a.example", hello, to("bob@a.example", "full@a.example", "eve@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "report", func() bool { return len(a.sink.Stored()) == 3 })
	await(t, "empty queue", func() bool { return a.q.Stats().Messages == 0 })
	if _, _, repeats, _ := a.sink.Counts(); repeats != 0 {
		t.Errorf("%d deliveries repeated", repeats)
	}
	if r := a.sink.Stored()[2]; r.To.Local != "ann" || !strings.Contains(r.Body, "full@a.example") || strings.Contains(r.Body, "bob@a.example") {
		t.Errorf("%+v", r)
	}
}

func TestList(t *testing.T) {
	a := startRelay(t, "a.example", &dns.Zone{}, nil)
	for i := range 5000 {
		a.list["all"] = append(a.list["all"], fmt.Sprintf("u%d", i))
	}
	if reply := send(t, a.addr, "ann@a.example", hello, to("all@a.example", "u7@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "all members", func() bool { return len(a.sink.Stored()) >= 5000 })
	await(t, "empty queue", func() bool { return a.q.Stats().Messages == 0 })
	// u7 was a recipient and a member: one copy, by its key.
	if n := len(a.sink.Stored()); n != 5000 {
		t.Errorf("%d stored", n)
	}
	if _, messages, repeats, conflicts := a.sink.Counts(); messages != 4 || repeats != 1 || conflicts != 0 {
		t.Errorf("%d transactions, %d repeats, %d conflicts", messages, repeats, conflicts)
	}
}

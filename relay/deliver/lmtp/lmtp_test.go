package lmtp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sink(t testing.TB, wrap func(net.Conn) net.Conn, opts ...lmtptest.Option) *lmtptest.Sink {
	t.Helper()
	s, err := lmtptest.Start(wrap, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// pair is a route table of one pair whose nodes are sinks, the first serving.
func pair(sinks ...*lmtptest.Sink) *route.Table {
	table := new(route.Table)
	for i, s := range sinks {
		table.Update(route.Node{
			Name: fmt.Sprintf("n%d", i), Pair: "pair1", Alive: true, Serving: i == 0,
			Addr: map[route.Service]string{route.LMTP: s.Addr},
		})
	}
	return table
}

func agent(t testing.TB, cfg Config) *Agent {
	t.Helper()
	cfg.Hello = "relay.example"
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func delivery(n int) *deliver.Delivery {
	d := &deliver.Delivery{
		Envelope: &mail.Envelope{ReversePath: mail.Address{Local: "ann", Domain: "example.net"}, RootID: "root", Arrival: time.Unix(1700000000, 42)},
		Body:     [][]byte{[]byte("Received: here\r\n"), []byte("Subject: x\r\n\r\n.dot\r\nbody\r\n")},
	}
	for i := range n {
		mailbox := fmt.Sprintf("u%d@example.org", i)
		d.Recipients = append(d.Recipients, mail.Recipient{
			Channel: mail.ChannelLMTP, NextHop: "pair1", Mailbox: mailbox,
			Address: mail.Address{Local: "alias", Domain: "example.org"}, Key: mail.NewDeliveryKey("o", "root", mailbox),
		})
	}
	return d
}

func outcomes(results []deliver.Result) string {
	var s []string
	for _, r := range results {
		s = append(s, r.Outcome.String())
	}
	return strings.Join(s, " ")
}

func TestDeliver(t *testing.T) {
	s := sink(t, nil)
	a := agent(t, Config{Routes: pair(s)})
	d := delivery(2)
	d.Recipients[1].Folder = "Größe/a b+c"
	d.Recipients[1].Quota = &mail.Quota{Bytes: 1000, Messages: -1, Stamp: "20260101Z"}
	for range 3 {
		if got := outcomes(a.Deliver(t.Context(), d)); got != "delivered delivered" {
			t.Fatal(got)
		}
	}
	got := s.Stored()
	if len(got) != 2 {
		t.Fatalf("%d stored", len(got))
	}
	if got[0].Body != "Received: here\r\nSubject: x\r\n\r\n.dot\r\nbody\r\n" || got[0].From.String() != "ann@example.net" || got[0].To.String() != "u0@example.org" {
		t.Errorf("stored %+v", got[0])
	}
	want := map[string]string{"XKEY": d.Recipients[1].Key.String(), "XFOLDER": "Größe/a b+c", "XQUOTA": "1000,-1,20260101Z", "XTRACE": "root", "XTIME": "1700000000000000042"}
	for k, v := range want {
		if got[1].Private[k] != v {
			t.Errorf("%s = %q, want %q", k, got[1].Private[k], v)
		}
	}
	if sessions, messages, repeats, conflicts := s.Counts(); sessions != 1 || messages != 3 || repeats != 4 || conflicts != 0 {
		t.Errorf("%d sessions, %d messages, %d repeats, %d conflicts", sessions, messages, repeats, conflicts)
	}
}

func TestSplitsLargeDeliveries(t *testing.T) {
	s := sink(t, nil)
	a := agent(t, Config{Routes: pair(s), MaxRecipients: 100})
	results := a.Deliver(t.Context(), delivery(250))
	if i := slices.IndexFunc(results, func(r deliver.Result) bool { return r.Outcome != deliver.Delivered }); i >= 0 {
		t.Errorf("recipient %d: %+v", i, results[i])
	}
	if _, messages, _, _ := s.Counts(); messages != 3 || len(s.Stored()) != 250 {
		t.Errorf("%d transactions, %d stored", messages, len(s.Stored()))
	}
}

// TestSplitsWhileSet: other settings hold from the next delivery on; of one that
// is under way nobody is left out or asked about twice.
func TestSplitsWhileSet(t *testing.T) {
	for _, most := range []int{1000, 30} {
		s := sink(t, nil)
		cfg := Config{Hello: "relay.example", Routes: pair(s), MaxRecipients: 100}
		a := agent(t, cfg)
		cfg.MaxRecipients = most
		s.Mail = func(*smtp.MailArgs) *smtp.Reply {
			if err := a.Set(cfg); err != nil {
				t.Error(err)
			}
			return nil
		}
		results := a.Deliver(t.Context(), delivery(250))
		if i := slices.IndexFunc(results, func(r deliver.Result) bool { return r.Outcome != deliver.Delivered }); i >= 0 {
			t.Errorf("%d from now on: recipient %d: %+v", most, i, results[i])
		}
		if _, messages, repeats, _ := s.Counts(); messages != 3 || repeats != 0 || len(s.Stored()) != 250 {
			t.Errorf("%d from now on: %d transactions, %d repeats, %d stored", most, messages, repeats, len(s.Stored()))
		}
	}
}

// TestConnectionsChange: the number of connections to a node is another one while
// deliveries are under way and others wait for one; nobody who gives up takes one
// along.
func TestConnectionsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slots
		var held atomic.Int64
		let := make(chan struct{})
		work := func(ctx context.Context) {
			if s.acquire(ctx) != nil {
				return
			}
			held.Add(1)
			<-let
			held.Add(-1)
			s.release()
		}
		s.bound(2)
		for range 10 {
			go work(t.Context())
		}
		want := func(what string, n int64) {
			t.Helper()
			synctest.Wait()
			if got := held.Load(); got != n {
				t.Errorf("%s: %d in use, want %d", what, got, n)
			}
		}
		want("at first", 2)
		impatient, giveUp := context.WithCancel(t.Context())
		for range 3 {
			go work(impatient)
		}
		s.bound(5)
		want("more", 5)
		giveUp()
		s.bound(1)
		want("fewer", 5)
		for range 4 {
			let <- struct{}{}
		}
		want("four have ended", 1)
		let <- struct{}{}
		want("another one", 1)
		s.bound(3)
		want("more again", 3)
		for range 5 {
			let <- struct{}{}
		}
		want("all have ended", 0)
		if s.used != 0 || len(s.waiting) != 0 {
			t.Errorf("%d used, %d wait", s.used, len(s.waiting))
		}
	})
}

// TestSetConnections: it reaches the node that is connected to.
func TestSetConnections(t *testing.T) {
	s := sink(t, nil)
	cfg := Config{Hello: "relay.example", Routes: pair(s), MaxConns: 1}
	a := agent(t, cfg)
	var began atomic.Bool
	s.Mail = func(*smtp.MailArgs) *smtp.Reply {
		if began.Swap(true) {
			return nil
		}
		cfg.MaxConns = 2
		if err := a.Set(cfg); err != nil {
			t.Error(err)
		}
		if r := a.Deliver(t.Context(), delivery(1)); r[0].Outcome != deliver.Delivered {
			t.Errorf("beside one that is under way: %+v", r[0])
		}
		return nil
	}
	if r := a.Deliver(t.Context(), delivery(1)); r[0].Outcome != deliver.Delivered {
		t.Errorf("%+v", r[0])
	}
}

func TestRedirect(t *testing.T) {
	for name, where := range map[string]func(s *lmtptest.Sink, r *smtp.Reply){
		"at MAIL":           func(s *lmtptest.Sink, r *smtp.Reply) { s.Mail = func(*smtp.MailArgs) *smtp.Reply { return r } },
		"at RCPT":           func(s *lmtptest.Sink, r *smtp.Reply) { s.Rcpt = func(*smtp.RcptArgs) *smtp.Reply { return r } },
		"after the message": func(s *lmtptest.Sink, r *smtp.Reply) { s.Answer = func(*smtp.RcptArgs) *smtp.Reply { return r } },
	} {
		t.Run(name, func(t *testing.T) {
			n0, n1, n2 := sink(t, nil), sink(t, nil), sink(t, nil)
			where(n0, &smtp.Reply{Code: 451, Status: mail.StatusNotServing, Text: "not serving, leader=n2"})
			n1.Mail = func(*smtp.MailArgs) *smtp.Reply { t.Error("n1 was asked"); return nil }
			table := pair(n0, n1, n2)
			a := agent(t, Config{Routes: table})
			for range 2 {
				if got := outcomes(a.Deliver(t.Context(), delivery(2))); got != "delivered delivered" {
					t.Fatal(got)
				}
			}
			if table.Candidates("pair1")[0].Name != "n2" {
				t.Error("the redirect was not remembered")
			}
			if len(n2.Stored()) != 2 {
				t.Errorf("%d stored", len(n2.Stored()))
			}
		})
	}
}

// TestOneRecipientRedirected: only the recipient concerned is asked about again.
func TestPartialAnswers(t *testing.T) {
	s := sink(t, nil)
	var tries atomic.Int32
	s.Rcpt = func(r *smtp.RcptArgs) *smtp.Reply {
		if r.To.Local == "u3" {
			return &smtp.Reply{Code: 550, Status: mail.StatusBadMailbox, Text: "no such user"}
		}
		return nil
	}
	s.Answer = func(r *smtp.RcptArgs) *smtp.Reply {
		switch r.To.Local {
		case "u0":
			return &smtp.Reply{Code: 452, Status: mail.StatusOverQuota, Text: "over quota"}
		case "u1":
			return &smtp.Reply{Code: 552, Status: mail.Status{5, 2, 2}, Text: "over quota for long"}
		case "u2":
			if tries.Add(1) == 1 {
				return &smtp.Reply{Code: 451, Status: mail.StatusNoQuorum, Text: "no quorum in time"}
			}
		}
		return nil
	}
	a := agent(t, Config{Routes: pair(s)})
	results := a.Deliver(t.Context(), delivery(5))
	if got := outcomes(results); got != "deferred failed delivered failed delivered" {
		t.Errorf("%s: %+v", got, results)
	}
	if results[0].Code != 452 || results[3].Status != mail.StatusBadMailbox || results[0].Busy {
		t.Errorf("%+v", results)
	}
	if _, _, repeats, _ := s.Counts(); repeats != 0 {
		t.Errorf("%d deliveries repeated: settled recipients were asked about again", repeats)
	}
}

func TestNoQuorumIsUnknown(t *testing.T) {
	s := sink(t, nil)
	s.Answer = func(*smtp.RcptArgs) *smtp.Reply {
		return &smtp.Reply{Code: 451, Status: mail.StatusNoQuorum, Text: "no quorum in time"}
	}
	a := agent(t, Config{Routes: pair(s), Rounds: 2})
	if r := a.Deliver(t.Context(), delivery(1)); r[0].Outcome != deliver.Unknown || !r[0].Busy {
		t.Errorf("%+v", r)
	}
}

func TestNobodyAnswers(t *testing.T) {
	a := agent(t, Config{Routes: new(route.Table), Rounds: 1})
	if r := a.Deliver(t.Context(), delivery(1)); r[0].Outcome != deliver.Deferred || !errors.Is(r[0].Err, deliver.ErrNoRoute) {
		t.Errorf("unknown pair: %+v", r)
	}
	gone := sink(t, nil)
	gone.Close()
	a = agent(t, Config{Routes: pair(gone)})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r := a.Deliver(ctx, delivery(1)); r[0].Outcome != deliver.Deferred || !r[0].Busy || r[0].Status != mail.StatusNoAnswer {
		t.Errorf("refused connection: %+v", r)
	}
	if err := a.Probe(t.Context(), "pair1"); err == nil {
		t.Error("Probe of a dead pair succeeds")
	}
}

// TestRestartedServer: connections kept from before are found dead without a
// failure.
func TestRestartedServer(t *testing.T) {
	var mu sync.Mutex
	var conns []net.Conn
	s := sink(t, func(c net.Conn) net.Conn {
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		return c
	})
	a := agent(t, Config{Routes: pair(s), Rounds: 1})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { a.Deliver(context.Background(), delivery(1)) })
	}
	wg.Wait()
	mu.Lock()
	for _, c := range conns {
		c.Close()
	}
	mu.Unlock()
	for range 3 {
		if got := outcomes(a.Deliver(t.Context(), delivery(1))); got != "delivered" {
			t.Fatal(got)
		}
	}
	if n := len(s.Stored()); n != 1 {
		t.Errorf("%d stored under one key", n)
	}
}

func TestForeign(t *testing.T) {
	s := sink(t, nil, lmtptest.Plain)
	a := agent(t, Config{Foreign: map[string]Foreign{"pair1": {Addrs: []string{s.Addr}}}})
	if got := outcomes(a.Deliver(t.Context(), delivery(2))); got != "delivered delivered" {
		t.Fatal(got)
	}
	for _, d := range s.Stored() {
		if len(d.Private) != 0 {
			t.Errorf("private parameters sent to a foreign server: %v", d.Private)
		}
	}
}

// cut is a connection whose server side ends after some octets have been
// written to the client.
type cut struct {
	net.Conn
	left *atomic.Int64
}

func (c cut) Write(b []byte) (int, error) {
	n := c.left.Add(-int64(len(b)))
	if n >= 0 {
		return c.Conn.Write(b)
	}
	keep := max(0, int64(len(b))+n)
	_, _ = c.Conn.Write(b[:keep])
	c.Conn.Close()
	return int(keep), errors.New("cut")
}

// TestCutReplies drops the connection after each octet that the server sends:
// nothing is lost, and the keys keep everything single (F28).
func TestCutReplies(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for at := int64(0); at < 700; at += 3 {
			left := new(atomic.Int64)
			left.Store(at)
			var opts []lmtptest.Option
			if plain {
				opts = append(opts, lmtptest.Plain)
			}
			s, err := lmtptest.Start(func(c net.Conn) net.Conn {
				if left.Load() >= 0 {
					return cut{c, left}
				}
				return c
			}, opts...)
			if err != nil {
				t.Fatal(err)
			}
			a, err := New(Config{Hello: "relay.example", Routes: pair(s), Rounds: 2})
			if err != nil {
				t.Fatal(err)
			}
			results := a.Deliver(t.Context(), delivery(3))
			whole := left.Load() >= 0
			_, _, _, conflicts := s.Counts()
			stored := map[string]int{}
			for _, d := range s.Stored() {
				stored[d.To.Local]++
			}
			for i, r := range results {
				n := stored[fmt.Sprintf("u%d", i)]
				switch {
				case !plain && (r.Outcome != deliver.Delivered || n != 1):
					t.Errorf("cut at %d: recipient %d is %v, stored %d times", at, i, r.Outcome, n)
				case plain && (n > 1 || r.Outcome == deliver.Delivered && n != 1 || r.Outcome == deliver.Deferred && n != 0 || r.Outcome == deliver.Failed):
					t.Errorf("foreign, cut at %d: recipient %d is %v, stored %d times", at, i, r.Outcome, n)
				}
			}
			if conflicts != 0 {
				t.Errorf("cut at %d: a key came with another body", at)
			}
			a.Close()
			s.Close()
			if whole {
				break
			}
		}
	}
}

func TestLeaderOf(t *testing.T) {
	for text, want := range map[string]string{
		"not serving, leader=pair1-b": "pair1-b", "leader=n2; try": "n2", "no leader": "", "leader=": "", "leader=a.b.": "a.b", "leader=\r\n": "",
	} {
		if got := leaderOf(text); got != want {
			t.Errorf("leaderOf(%q) = %q, want %q", text, got, want)
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	s := sink(b, nil)
	s.Discard = true
	a := agent(b, Config{Routes: pair(s)})
	d := delivery(1)
	d.Body = append(d.Body, []byte(strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 140)))
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if r := a.Deliver(context.Background(), d); r[0].Outcome != deliver.Delivered {
				b.Errorf("%+v", r[0])
			}
		}
	})
}

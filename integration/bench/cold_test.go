package bench

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

// messageSize is that of the messages to recipients that nobody has asked for.
const messageSize = 2048

// TestColdRecipients: a message each for recipients of whom a relay knows
// nothing. Postern stores them on a pair, with a new mailbox for each; Postfix
// hands them to a server that forgets them.
func TestColdRecipients(t *testing.T) {
	n := *recipients
	slapd := cluster.StartSlapd(t, fixture.Tree(domain, n, 1))
	addresses := make([]string, n)
	for i := range addresses {
		addresses[i] = fixture.UID(i+1) + "@" + domain
	}
	tab := newTable()
	head(tab)
	t.Cleanup(func() { t.Log(tab) })

	c, sys := postern(t, slapd)
	relay := c.Info().Relays[0]
	before := slapd.Searches(t)
	sys.begin(t)
	took := send(t, relay.SMTP, addresses, n)
	sys.end(tab, "cold", took, n)
	searches := slapd.Searches(t) - before - 1
	t.Logf("Postern: %d messages, %.0f/s, %d searches, %.3f each, over %d connections", n, float64(n)/took.Seconds(),
		searches, float64(searches)/float64(n), slapd.Connections(t))
	// The domain, and what watches whether the servers are well.
	if searches < n || searches > n+n/100+20 {
		t.Errorf("%d searches for %d recipients", searches, n)
	}
	again := min(n, 2000)
	before = slapd.Searches(t)
	sys.begin(t)
	took = send(t, relay.SMTP, addresses[n-again:], again)
	sys.end(tab, "again", took, again)
	if searches = slapd.Searches(t) - before - 1; searches > 20 {
		t.Errorf("%d searches for %d recipients that are known", searches, again)
	}
	c.Stop()
	if !*alone {
		coldPostfix(t, slapd, addresses, tab)
	}
}

func coldPostfix(t *testing.T, slapd *cluster.OpenLDAP, addresses []string, tab *table) {
	n := len(addresses)
	p := postfix(t, slapd, sink(t))
	peer := &system{name: "Postfix", parts: []part{{"relay", []int{p.PID()}}, {"directory", []int{slapd.PID}}}}
	log := sent(t, p)
	before := slapd.Searches(t)
	peer.begin(t)
	start := time.Now()
	send(t, p.Addr, addresses, n)
	log.await(t, n, time.Minute+time.Duration(n)*time.Millisecond)
	took := time.Since(start)
	peer.end(tab, "cold", took, n)
	searches := slapd.Searches(t) - before - 1
	t.Logf("Postfix: %d messages, %.0f/s, %d searches, %.3f each", n, float64(n)/took.Seconds(), searches, float64(searches)/float64(n))
}

// send sends n messages, one to each recipient, and returns the time until the
// last was answered.
func send(t *testing.T, addr string, to []string, n int) time.Duration {
	t.Helper()
	l := cluster.NewLedger()
	start := time.Now()
	cluster.Load{
		Senders: *sessions, Addrs: func() []string { return []string{addr} }, Recipients: to,
		Size: messageSize, Messages: n, Timeout: time.Minute,
	}.Run(l, nil)
	took := time.Since(start)
	if ok, refused, unknown := l.Counts(); ok != n {
		t.Fatalf("%d acknowledged, %d refused, %d unknown; want %d", ok, refused, unknown, n)
	}
	return took
}

/*
Package chaos breaks a running cluster while senders keep a ledger outside it,
and then counts: every acknowledged message is in its mailbox exactly once, an
unknown one at most once, a refused one not at all.
*/
package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/integration/cluster"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

func nightly() bool { return os.Getenv("POSTERN_NIGHTLY") != "" }

func smtpAddrs(c *cluster.Cluster) func() []string {
	var addrs []string
	for _, r := range c.Info().Relays {
		addrs = append(addrs, r.SMTP)
	}
	return func() []string { return addrs }
}

func recipients(c *cluster.Cluster) (addrs []string) {
	for _, u := range c.Info().Users {
		addrs = append(addrs, u.Address)
	}
	return addrs
}

// underLoad starts a cluster and senders that go to every user by every relay
// until end is called, or the test is over.
func underLoad(t *testing.T, l cluster.Load, flags ...string) (c *cluster.Cluster, led *cluster.Ledger, end func()) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c = cluster.Start(t, flags...)
	l.Addrs, l.Recipients = smtpAddrs(c), recipients(c)
	led = cluster.NewLedger()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(led, stop) })
	end = sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(end)
	return c, led, end
}

// TestLedger kills the serving replica, the other one, the witness and a relay
// in turn every five seconds under 64 senders.
func TestLedger(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "40")
	seconds := 25 * time.Second
	if nightly() {
		seconds = 60 * time.Second
	}
	led, stop := cluster.NewLedger(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		cluster.Load{Senders: 64, Addrs: smtpAddrs(c), Recipients: recipients(c), Size: 10 << 10, Pause: 10 * time.Millisecond}.Run(led, stop)
	})
	watch := watchUIDs(t, c, stop, &wg)
	pair := c.Info().Pairs[0]
	end := time.Now().Add(seconds)
	for round := 0; time.Now().Before(end); round++ {
		time.Sleep(5 * time.Second)
		victim := pickVictim(c, pair, round)
		t.Logf("kill -9 %s", victim)
		c.Signal(victim, syscall.SIGKILL)
	}
	time.Sleep(3 * time.Second)
	close(stop)
	wg.Wait()
	watch(t)
	ok, refused, unknown := led.Counts()
	t.Logf("acknowledged %d, refused %d, unknown %d, longest gap %v", ok, refused, unknown, led.LongestGap())
	if ok < 500 {
		t.Errorf("only %d messages acknowledged: no load to speak of", ok)
	}
	c.AwaitServing(pair.Name, 15*time.Second)
	awaitEmptyQueues(t, c, 90*time.Second)
	checkMailboxes(t, c, led)
	checkDigests(t, c, pair.Name)
}

// TestWitnessCarries takes A away, lets B and the witness go on, takes B away
// and brings A back: nothing may be missing.
func TestWitnessCarries(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "10", "--no-restart")
	pair := c.Info().Pairs[0]
	first := c.AwaitServing(pair.Name, 10*time.Second)
	second := otherData(pair, first)
	led := cluster.NewLedger()
	load := cluster.Load{Senders: 8, Addrs: smtpAddrs(c), Recipients: recipients(c), Size: 4 << 10}
	run := func(d time.Duration) {
		stop := make(chan struct{})
		time.AfterFunc(d, func() { close(stop) })
		load.Run(led, stop)
	}
	run(time.Second)
	c.Signal(first, syscall.SIGKILL)
	c.AwaitServing(pair.Name, 10*time.Second)
	run(3 * time.Second)
	c.Signal(second, syscall.SIGKILL)
	if _, err := c.Postern("node", "start", first); err != nil {
		t.Fatal(err)
	}
	if got := c.AwaitServing(pair.Name, 20*time.Second); got != first {
		t.Fatalf("%s serves, want %s", got, first)
	}
	run(time.Second)
	if _, err := c.Postern("node", "start", second); err != nil {
		t.Fatal(err)
	}
	ok, refused, unknown := led.Counts()
	t.Logf("acknowledged %d, refused %d, unknown %d", ok, refused, unknown)
	awaitEmptyQueues(t, c, 60*time.Second)
	checkMailboxes(t, c, led)
	checkDigests(t, c, pair.Name)
}

// TestFailoverTime measures from kill -9 of the serving replica to the next
// acknowledged delivery, and a planned transfer.
func TestFailoverTime(t *testing.T) {
	trials := 5
	if nightly() {
		trials = 20
	}
	c, led, end := underLoad(t, cluster.Load{Senders: 4, Size: 2 << 10, Pause: 5 * time.Millisecond}, "--users", "10")
	pair := c.Info().Pairs[0]
	var kills, transfers []time.Duration
	for range trials {
		awaitReplicas(t, c, pair.Name)
		serving := c.AwaitServing(pair.Name, 15*time.Second)
		pid := c.PID(serving)
		at := time.Now()
		syscall.Kill(pid, syscall.SIGKILL)
		time.Sleep(4 * time.Second)
		ack, ok := led.FirstAckAfter(at)
		if !ok {
			t.Fatalf("no acknowledgement within 4 s of killing %s", serving)
		}
		kills = append(kills, ack.Sub(at))
	}
	for range trials {
		awaitReplicas(t, c, pair.Name)
		c.AwaitServing(pair.Name, 15*time.Second)
		at := time.Now()
		if _, err := c.Postern("pair", "transfer", pair.Name); err != nil {
			t.Fatal(err)
		}
		done := time.Now()
		time.Sleep(time.Second)
		transfers = append(transfers, gapAround(led, at, done))
	}
	end()
	slices.Sort(kills)
	slices.Sort(transfers)
	t.Logf("kill -9 to next acknowledgement: p50 %v, max %v (%d trials)", kills[len(kills)/2], kills[len(kills)-1], trials)
	t.Logf("planned transfer, longest gap: p50 %v, max %v", transfers[len(transfers)/2], transfers[len(transfers)-1])
	if m := kills[len(kills)-1]; m > 10*time.Second {
		t.Errorf("recovery took %v, more than the 10 s of the drill", m)
	}
	awaitEmptyQueues(t, c, 60*time.Second)
	checkMailboxes(t, c, led)
}

// gapAround is the longest time between two acknowledgements in a window.
func gapAround(led *cluster.Ledger, from, to time.Time) time.Duration {
	var acks []time.Time
	for _, e := range led.Entries() {
		if e.Outcome == cluster.Acknowledged && e.Answered.After(from.Add(-time.Second)) && e.Answered.Before(to.Add(time.Second)) {
			acks = append(acks, e.Answered)
		}
	}
	slices.SortFunc(acks, time.Time.Compare)
	var gap time.Duration
	for i := 1; i < len(acks); i++ {
		gap = max(gap, acks[i].Sub(acks[i-1]))
	}
	return gap
}

func pickVictim(c *cluster.Cluster, pair cluster.Pair, round int) string {
	serving := c.Serving(pair.Name)
	switch round % 4 {
	case 0:
		if serving != "" {
			return serving
		}
	case 2:
		for _, n := range pair.Nodes {
			if n.Role == "witness" {
				return n.Name
			}
		}
	case 3:
		return c.Info().Relays[0].Name
	}
	return otherData(pair, serving)
}

func otherData(pair cluster.Pair, name string) string {
	for _, n := range pair.Nodes {
		if n.Role == "data" && n.Name != name {
			return n.Name
		}
	}
	return ""
}

func login(t testing.TB, c *cluster.Cluster, u cluster.User) *imapclient.Client {
	t.Helper()
	var last error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, r := range c.Info().Relays {
			cl, err := imapclient.DialInsecure(r.IMAP, nil)
			if err != nil {
				last = err
				continue
			}
			if err := cl.Login(u.Login, u.Password).Wait(); err != nil {
				last = err
				cl.Close()
				continue
			}
			return cl
		}
	}
	t.Fatalf("login of %s: %v", u.Login, last)
	return nil
}

// checkMailboxes reads every mailbox and compares it with the ledger.
func checkMailboxes(t *testing.T, c *cluster.Cluster, led *cluster.Ledger) {
	t.Helper()
	found := map[string]int{}
	for _, u := range c.Info().Users {
		cl := login(t, c, u)
		sel, err := cl.Select("INBOX", nil).Wait()
		if err != nil {
			t.Fatalf("%s: %v", u.Login, err)
		}
		var lastUID imap.UID
		if sel.NumMessages > 0 {
			msgs, err := cl.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{UID: true, Envelope: true}).Collect()
			if err != nil {
				t.Fatalf("%s: %v", u.Login, err)
			}
			for _, m := range msgs {
				if m.UID <= lastUID {
					t.Errorf("%s: UID %d after %d", u.Login, m.UID, lastUID)
				}
				lastUID = m.UID
				found[m.Envelope.MessageID]++
			}
		}
		cl.Logout().Wait()
		cl.Close()
	}
	bad := 0
	for _, e := range led.Entries() {
		n := found[e.ID]
		wrong := e.Outcome == cluster.Acknowledged && n != 1 || e.Outcome == cluster.Unknown && n > 1 || e.Outcome == cluster.Refused && n != 0
		if wrong {
			if bad++; bad <= 10 {
				t.Errorf("message %s to %s: outcome %d (%s), sent %s, copies %d", e.ID, e.Recipient, e.Outcome, e.Reply, e.Sent.Format(time.TimeOnly), n)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d messages break their promise", bad)
	}
}

// watchUIDs polls UIDNEXT and UIDVALIDITY of a few mailboxes: the first only
// grows and the second stays.
func watchUIDs(t *testing.T, c *cluster.Cluster, stop <-chan struct{}, wg *sync.WaitGroup) func(*testing.T) {
	var mu sync.Mutex
	var faults []string
	polls := 0
	users := c.Info().Users[:3]
	wg.Go(func() {
		type seen struct{ next, validity uint32 }
		last := map[string]seen{}
		for {
			for _, u := range users {
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Millisecond):
				}
				now, err := pollStatus(c, u)
				if err != nil {
					continue
				}
				mu.Lock()
				polls++
				was, known := last[u.Login]
				if known && (now[0] < was.next || now[1] != was.validity) {
					faults = append(faults, fmt.Sprintf("%s: UIDNEXT %d after %d, UIDVALIDITY %d after %d", u.Login, now[0], was.next, now[1], was.validity))
				}
				last[u.Login] = seen{now[0], now[1]}
				mu.Unlock()
			}
		}
	})
	return func(t *testing.T) {
		mu.Lock()
		defer mu.Unlock()
		if polls == 0 {
			t.Error("no STATUS was ever answered during the faults")
		}
		for _, f := range faults {
			t.Error(f)
		}
	}
}

func pollStatus(c *cluster.Cluster, u cluster.User) (v [2]uint32, err error) {
	data, err := os.ReadFile(c.Dir + "/cluster.json")
	var info cluster.Info
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		return v, err
	}
	for _, r := range info.Relays {
		cl, e := imapclient.DialInsecure(r.IMAP, nil)
		if e != nil {
			err = e
			continue
		}
		if err = cl.Login(u.Login, u.Password).Wait(); err == nil {
			var st *imap.StatusData
			if st, err = cl.Status("INBOX", &imap.StatusOptions{UIDNext: true, UIDValidity: true}).Wait(); err == nil {
				v = [2]uint32{uint32(st.UIDNext), st.UIDValidity}
			}
		}
		cl.Close()
		if err == nil {
			return v, nil
		}
	}
	return v, err
}

func awaitEmptyQueues(t *testing.T, c *cluster.Cluster, within time.Duration) {
	t.Helper()
	var st cluster.Status
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(250 * time.Millisecond) {
		var err error
		if st, err = c.Status(); err != nil {
			continue
		}
		left := 0
		for _, q := range st.Queues {
			left += q.Queued
		}
		if left == 0 && len(st.Queues) == len(c.Info().Relays) {
			return
		}
	}
	t.Errorf("queues not empty after %v: %+v", within, st.Queues)
}

// awaitReplicas waits until every node of the pair runs and the replicas have
// applied the same entries.
func awaitReplicas(t *testing.T, c *cluster.Cluster, pair string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		ps, err := pairStatus(c, pair)
		if err == nil && ps.caughtUp() {
			return
		}
	}
	t.Fatalf("%s: replicas not caught up after 20 s", pair)
}

type replicaStatus struct {
	Name    string
	Role    string
	State   string
	Applied uint64
	Digest  string
}

type pairState struct {
	Name  string
	Nodes []replicaStatus
}

// caughtUp allows the replicas a few entries of difference, since load goes on.
func (p pairState) caughtUp() bool {
	var applied []uint64
	for _, n := range p.Nodes {
		if n.State == "down" || n.State == "" {
			return false
		}
		if n.Role == "data" {
			applied = append(applied, n.Applied)
		}
	}
	return len(applied) == 2 && applied[0]+1000 > applied[1] && applied[1]+1000 > applied[0]
}

func pairStatus(c *cluster.Cluster, pair string) (pairState, error) {
	out, err := c.Postern("pair", "status", pair, "--output", "json")
	if err != nil {
		return pairState{}, err
	}
	var pairs []pairState
	if err := json.Unmarshal([]byte(out), &pairs); err != nil {
		return pairState{}, err
	}
	for _, p := range pairs {
		if p.Name == pair {
			return p, nil
		}
	}
	return pairState{}, fmt.Errorf("no pair %s in the answer", pair)
}

// checkDigests waits until both data replicas have applied the same entry and
// compares what they hold.
func checkDigests(t *testing.T, c *cluster.Cluster, pair string) {
	t.Helper()
	var ps pairState
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		var err error
		if ps, err = pairStatus(c, pair); err != nil {
			continue
		}
		var data []replicaStatus
		for _, n := range ps.Nodes {
			if n.Role == "data" {
				data = append(data, n)
			}
		}
		if len(data) != 2 || data[0].Digest == "" || data[0].Applied != data[1].Applied {
			continue
		}
		if data[0].Digest != data[1].Digest {
			t.Errorf("digests differ at index %d: %s %s, %s %s", data[0].Applied, data[0].Name, data[0].Digest, data[1].Name, data[1].Digest)
		}
		return
	}
	t.Errorf("replicas never stood at the same index with a digest: %+v", ps)
}

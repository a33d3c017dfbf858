package chaos

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/integration/cluster"
)

// afterServing is the time that clients may wait longer than the replicas do: a
// relay must not go on waiting for the one that is frozen.
const afterServing = 1500 * time.Millisecond

// TestFrozen freezes the serving replica, which closes no connection: mail goes
// on with the other one as soon as that serves, and so does a user's session.
func TestFrozen(t *testing.T) {
	trials := 3
	if nightly() {
		trials = 20
	}
	c, led, end := underLoad(t, cluster.Load{Senders: 4, Size: 2 << 10, Pause: 5 * time.Millisecond}, "--users", "10")
	pair := c.Info().Pairs[0]
	var mail, sessions []time.Duration
	for range trials {
		awaitReplicas(t, c, pair.Name)
		victim := c.AwaitServing(pair.Name, 15*time.Second)
		at, moved, back := freeze(t, c, led, pair, victim)
		ack, ok := led.FirstAckAfter(at)
		if !ok {
			t.Fatal("no acknowledgement after the freeze")
		}
		mail, sessions = append(mail, ack.Sub(at)), append(sessions, back.Sub(at))
		if d := ack.Sub(moved); d > afterServing {
			t.Errorf("first acknowledgement %v after the other replica served", d)
		}
		if d := back.Sub(moved); d > afterServing+time.Second {
			t.Errorf("the session was back %v after the other replica served", d)
		}
	}
	end()
	slices.Sort(mail)
	slices.Sort(sessions)
	t.Logf("freeze to next acknowledgement: p50 %v, max %v; session back: p50 %v, max %v (%d trials)",
		mail[len(mail)/2], mail[len(mail)-1], sessions[len(sessions)/2], sessions[len(sessions)-1], trials)
	awaitEmptyQueues(t, c, 60*time.Second)
	checkMailboxes(t, c, led)
	checkDigests(t, c, pair.Name)
}

// freeze freezes a replica for some seconds with a user at work. It returns when
// that was, when the other replica served, and when the user was at work again.
func freeze(t *testing.T, c *cluster.Cluster, led *cluster.Ledger, pair cluster.Pair, victim string) (at, moved, back time.Time) {
	t.Helper()
	u := c.Info().Users[0]
	cl := login(t, c, u)
	defer func() { cl.Close() }()
	if _, err := cl.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	pid := c.PID(victim)
	at = time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	await(t, victim+" is stopped", 5*time.Second, func() bool {
		state, err := drill.ProcessState(pid)
		return err == nil && state == "T"
	})
	for works(cl) != nil {
		cl.Close()
		cl = login(t, c, u)
	}
	back = time.Now()
	await(t, "the other replica serves", 15*time.Second, func() bool {
		moved = servedSince(t, c, pair, otherData(pair, victim), at)
		return !moved.IsZero()
	})
	await(t, "mail is acknowledged", 10*time.Second, func() bool {
		_, ok := led.FirstAckAfter(at)
		return ok && time.Since(back) > afterServing
	})
	return at, moved, back
}

func works(cl *imapclient.Client) error {
	_, err := cl.Select("INBOX", nil).Wait()
	return err
}

// servedSince finds in the log of a node when it came to serve, after a time.
func servedSince(t *testing.T, c *cluster.Cluster, pair cluster.Pair, node string, after time.Time) time.Time {
	t.Helper()
	for _, n := range pair.Nodes {
		if n.Name != node {
			continue
		}
		data, err := os.ReadFile(filepath.Join(n.Dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if !strings.Contains(line, `msg="serving changed"`) || !strings.Contains(line, "serving=true") {
				continue
			}
			stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
			when, err := time.Parse(time.RFC3339Nano, stamp)
			if err != nil {
				t.Fatal(err)
			}
			if !when.Before(after.Truncate(time.Millisecond)) {
				return when
			}
		}
	}
	return time.Time{}
}

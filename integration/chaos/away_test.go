package chaos

import (
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// TestAwayAndBack takes A away, lets B and the witness take deliveries, forces a
// snapshot of B and a new start of the witness on the log it has, loses B and
// brings A back, which has to get all of it from the witness. The gap is shorter
// and longer than what is kept anywhere by default: entries in memory for
// followers (32 MB), a segment of the log (64 MB), and the 10,240 entries that raft
// itself would keep behind a snapshot.
func TestAwayAndBack(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	for _, c := range []struct {
		name           string
		messages, size int
		nightly        bool
	}{
		{"1000 of 1 KB", 1000, 1 << 10, false},
		{"1000 of 100 KB", 1000, 100 << 10, false},
		{"11000 of 1 KB", 11_000, 1 << 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.nightly && !nightly() {
				t.Skip("SKIP: nightly")
			}
			awayAndBack(t, c.messages, c.size)
		})
	}
}

func awayAndBack(t *testing.T, messages, size int) {
	c := cluster.Start(t, "--users", "10", "--no-restart")
	pair := c.Info().Pairs[0]
	a := c.AwaitServing(pair.Name, 10*time.Second)
	b := otherData(pair, a)
	witness := ""
	for _, n := range pair.Nodes {
		if n.Role == "witness" {
			witness = n.Name
		}
	}
	must := func(args ...string) {
		t.Helper()
		if out, err := c.Postern(args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	led := cluster.NewLedger()
	load := cluster.Load{Senders: 8, Addrs: smtpAddrs(c), Recipients: recipients(c), Size: size, Messages: 50}
	load.Run(led, nil)
	c.Signal(a, syscall.SIGKILL)
	c.AwaitServing(pair.Name, 10*time.Second)
	before, _, _ := led.Counts()
	load.Messages = messages
	load.Run(led, nil)
	after, _, _ := led.Counts()
	if after-before < messages*9/10 {
		t.Fatalf("%d of %d deliveries without A were acknowledged", after-before, messages)
	}
	must("backup", "create", "--on", b, "forced")
	must("node", "stop", witness, "--kill")
	must("node", "start", witness)
	// What the witness refuses while it starts, B alone must not acknowledge; the
	// pair is whole again when a delivery is.
	load.Messages = 50
	load.Run(led, nil)
	must("node", "stop", b, "--kill")
	began := time.Now()
	must("node", "start", a)
	if got := c.AwaitServing(pair.Name, 60*time.Second); got != a {
		t.Fatalf("%s serves, want %s", got, a)
	}
	t.Logf("%d deliveries of %d octets without A; %s serves %v after its start, all of them from the witness", after-before, size, a, time.Since(began).Round(10*time.Millisecond))
	load.Run(led, nil)
	must("node", "start", b)
	ok, refused, unknown := led.Counts()
	t.Logf("acknowledged %d, refused %d, unknown %d", ok, refused, unknown)
	awaitEmptyQueues(t, c, 60*time.Second)
	checkMailboxes(t, c, led)
	checkDigests(t, c, pair.Name)
}

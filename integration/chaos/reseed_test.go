package chaos

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// TestReseed loses a data replica with its directory under load and has another
// one made in its place: same node, new id, mail flowing all the time. Then it
// does the same with the witness.
func TestReseed(t *testing.T) {
	c, led, end := underLoad(t, cluster.Load{Senders: 16, Size: 10 << 10, Pause: 20 * time.Millisecond}, "--users", "20")
	pair := c.Info().Pairs[0]
	time.Sleep(2 * time.Second)
	lost := c.AwaitServing(pair.Name, 10*time.Second)
	wipe(t, c, pair, lost)
	before, _, _ := led.Counts()
	replaceMember(t, c, lost)
	during, _, _ := led.Counts()
	t.Logf("%d messages acknowledged while %s was made anew", during-before, lost)
	if during == before {
		t.Error("no mail came in while the replica was seeded")
	}
	var witness string
	for _, n := range pair.Nodes {
		if n.Role == "witness" {
			witness = n.Name
		}
	}
	wipe(t, c, pair, witness)
	replaceMember(t, c, witness)
	// The new replica carries the pair with the new witness.
	other := otherData(pair, lost)
	c.Signal(other, syscall.SIGKILL)
	if _, err := c.Postern("node", "stop", other); err != nil {
		t.Fatal(err)
	}
	if got := c.AwaitServing(pair.Name, 15*time.Second); got != lost {
		t.Errorf("%s serves, want %s", got, lost)
	}
	time.Sleep(2 * time.Second)
	if _, err := c.Postern("node", "start", other); err != nil {
		t.Fatal(err)
	}
	end()
	ok, refused, unknown := led.Counts()
	t.Logf("acknowledged %d, refused %d, unknown %d, longest gap %v", ok, refused, unknown, led.LongestGap())
	awaitEmptyQueues(t, c, 60*time.Second)
	checkMailboxes(t, c, led)
	checkDigests(t, c, pair.Name)
}

// wipe kills a node and removes the directory of its member.
func wipe(t *testing.T, c *cluster.Cluster, pair cluster.Pair, node string) {
	t.Helper()
	if out, err := c.Postern("node", "stop", node, "--kill"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := ""
	for _, n := range pair.Nodes {
		if n.Name == node {
			dir = filepath.Join(n.Dir, pair.Name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "id")); err != nil {
		t.Fatalf("no replica in %s: %v", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Postern("node", "start", node); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// replaceMember has the member on a node made anew, as an operator does.
func replaceMember(t *testing.T, c *cluster.Cluster, node string) {
	t.Helper()
	var out string
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		// The node may still be starting.
		if out, err = c.Postern("pair", "replace", node, node, "--yes", "--wait", "30s"); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("replace %s: %v: %s", node, err, out)
	}
	if !strings.Contains(out, node) {
		t.Errorf("replace %s says %q", node, out)
	}
}

package rotate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

type nodeKeys struct {
	Node string
	Keys []string
}

// all fails unless every node has these keys, the first one encrypting.
func all(b *bench, list []nodeKeys, keys ...string) {
	b.t.Helper()
	if len(list) != 5 {
		b.t.Fatalf("%d nodes, want 5: %v", len(list), list)
	}
	for _, n := range list {
		if strings.Join(n.Keys, " ") != strings.Join(keys, " ") {
			b.t.Errorf("%s has the keys %v, want %v", n.Node, n.Keys, keys)
		}
	}
}

func keyFile(c *cluster.Cluster, node string) string {
	return filepath.Join(c.Dir, node, "tls", "gossip.key")
}

// TestGossipKeys: the key of gossip is replaced under load; no step begins or goes
// on while a member would be left behind; nodes that restart keep what they were
// given.
func TestGossipKeys(t *testing.T) {
	c := cluster.Start(t, "--relays", "2", "--pairs", "1", "--users", "6")
	b := begin(t, c, 40)
	b.ready(30 * time.Second)
	refused := func(want string, args ...string) {
		t.Helper()
		if out, err := c.Postern(append([]string{"gossip", "key"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q\n%s", args, err, want, out)
		}
	}
	old := decode[[]nodeKeys](b, "gossip", "key", "list")[0].Keys[0]
	refused("encrypts on", "remove", old)
	refused("is not on", "use", "000000000000")

	// The last node does not take it: its file is not what it uses.
	mine, err := os.ReadFile(keyFile(c, "pair1-w"))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(mine), string(mine[:4]), "AAAA", 1)
	if err := os.WriteFile(keyFile(c, "pair1-w"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "new.key")
	refused("add not taken by pair1-w", "add", "--out", kept)
	if err := os.WriteFile(keyFile(c, "pair1-w"), mine, 0o600); err != nil {
		t.Fatal(err)
	}
	after := decode[[]nodeKeys](b, "gossip", "key", "list")
	fresh := after[0].Keys[1]
	refused("is not on pair1-w", "use", fresh)
	all(b, decode[[]nodeKeys](b, "gossip", "key", "add", "--key-file", kept), old, fresh)
	b.flows(20)

	// A node that is away would be left behind.
	b.must("node", "stop", "pair1-w")
	refused("nothing is changed", "use", fresh)
	b.must("node", "start", "pair1-w")
	b.ready(30 * time.Second)
	all(b, decode[[]nodeKeys](b, "gossip", "key", "use", fresh), fresh, old)
	refused("encrypts on", "remove", fresh)
	b.flows(20)
	all(b, decode[[]nodeKeys](b, "gossip", "key", "remove", old), fresh)
	b.flows(20)

	// After a restart a node has the key that it was given, and the others see it.
	b.must("node", "restart", "pair1-w")
	b.ready(30 * time.Second)
	all(b, decode[[]nodeKeys](b, "gossip", "key", "list"), fresh)
	b.seen("alive")
	b.end()
}

// seen waits until every relay sees every node in this state.
func (b *bench) seen(state string) {
	b.t.Helper()
	var list struct {
		Nodes []struct{ Name, State string }
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		list = decode[struct {
			Nodes []struct{ Name, State string }
		}](b, "node", "list")
		good := 0
		for _, n := range list.Nodes {
			if n.State == state {
				good++
			}
		}
		if good == 5 {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("not all are %s: %+v", state, list.Nodes)
		}
	}
}

package chaos

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// memberIDs are the members of a pair by node, as the serving replica has them.
func memberIDs(c *cluster.Cluster, pair string) map[string]string {
	out, err := c.Postern("pair", "members", pair, "--output", "json")
	if err != nil {
		return nil
	}
	var list struct {
		Members []struct {
			ID, Node string
			Voter    bool
		}
	}
	if json.Unmarshal([]byte(out), &list) != nil {
		return nil
	}
	ids := map[string]string{}
	for _, m := range list.Members {
		if m.Voter {
			ids[m.Node] = m.ID
		}
	}
	return ids
}

// TestSelfReseed has a data replica find, under load, that the other one's log
// begins too late for it: nobody does anything, and it is a complete member
// again, under another id.
func TestSelfReseed(t *testing.T) {
	c, led, end := underLoad(t, cluster.Load{Senders: 8, Size: 10 << 10, Pause: 20 * time.Millisecond}, "--users", "20")
	pair := c.Info().Pairs[0]
	await(t, "mail comes in", 20*time.Second, func() bool { ok, _, _ := led.Counts(); return ok > 200 })
	behind := otherData(pair, c.AwaitServing(pair.Name, 10*time.Second))
	was := memberIDs(c, pair.Name)[behind]
	if was == "" {
		t.Fatalf("%s is no member", behind)
	}
	if out, err := c.Postern("node", "stop", behind, "--kill"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, n := range pair.Nodes {
		if n.Name == behind {
			// What a replica notes when it is offered a state instead of entries.
			mark := filepath.Join(n.Dir, pair.Name, "raft", "snapshots", "reseed-needed")
			if err := os.WriteFile(mark, []byte("the other replica offers its state\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out, err := c.Postern("node", "start", behind); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, _, _ := led.Counts()
	await(t, behind+" votes again, under another id", 60*time.Second, func() bool {
		id := memberIDs(c, pair.Name)[behind]
		return id != "" && id != was
	})
	during, _, _ := led.Counts()
	if during == before {
		t.Error("no mail came in while the replica was made anew")
	}
	end()
	ok, refused, unknown := led.Counts()
	t.Logf("acknowledged %d (%d while %s was made anew), refused %d, unknown %d, longest gap %v", ok, during-before, behind, refused, unknown, led.LongestGap())
	awaitEmptyQueues(t, c, 60*time.Second)
	checkMailboxes(t, c, led)
	checkDigests(t, c, pair.Name)
}

package bench

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// TestTool: what `postern bench` says of its load is what the cluster saw.
func TestTool(t *testing.T) {
	c := cluster.Start(t, "--relays", "2", "--pairs", "1", "--users", "20")
	node := nodeOf(t, c)
	out, err := c.Postern("bench", "--deliveries", "40", "--sessions", "30", "--poll", "500ms", "--for", "5s", "--size", "2048", "--output", "json")
	if err != nil {
		t.Fatal(err, out)
	}
	type count struct {
		Asked, Done, Failed int
		Times               struct {
			P50 float64 `json:"p50_ms"`
			P99 float64 `json:"p99_ms"`
			Max float64 `json:"max_ms"`
		}
	}
	var got struct {
		Deliveries, Logins, Polls, Fetches count
		Nodes                              []struct {
			Name   string
			Memory int64
		}
		Ended bool `json:"ended_early"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err, out)
	}
	for name, c := range map[string]count{"deliveries": got.Deliveries, "logins": got.Logins, "polls": got.Polls, "fetches": got.Fetches} {
		if c.Done == 0 || c.Failed != 0 || c.Asked != c.Done || c.Times.P50 <= 0 || c.Times.P50 > c.Times.P99 || c.Times.P99 > c.Times.Max {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if got.Deliveries.Done > 200 || got.Logins.Done != 30 || got.Polls.Done > 30*10 || got.Ended {
		t.Errorf("more than was asked for: %s", out)
	}
	if n := figure(t, node.Metrics, "postern_lmtp_deliveries_total", `class="2"`); n != got.Deliveries.Done {
		t.Errorf("the pair has %d messages, the load says %d", n, got.Deliveries.Done)
	}
	if len(got.Nodes) != 5 {
		t.Errorf("nodes: %+v", got.Nodes)
	}
	for _, n := range got.Nodes {
		if n.Memory < 1<<20 {
			t.Errorf("%s has %d octets of memory", n.Name, n.Memory)
		}
	}
	// A cluster that is not there is no result.
	c.Stop()
	start := time.Now()
	if out, err := c.Postern("bench", "--for", "60s"); err == nil || time.Since(start) > 30*time.Second {
		t.Errorf("without a cluster: %q, %v after %v", out, err, time.Since(start))
	}
}

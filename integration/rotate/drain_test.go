package rotate

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

type emptied struct{ Connections, Queued, Held, Sessions, Flushed int }

// TestDrainRelay: relays drain and return in turn under load, one of them while a
// pair is away and its mail is queued. No delivery fails, nothing is lost or
// doubled, no session of a user is broken.
func TestDrainRelay(t *testing.T) {
	c := cluster.Start(t, "--relays", "2", "--pairs", "2", "--users", "8")
	b := begin(t, c, 40)
	b.ready(30 * time.Second)
	relays := c.Info().Relays

	for _, r := range relays {
		from := time.Now()
		got := decode[emptied](b, "node", "drain", r.Name, "--wait", "30s")
		t.Logf("%s is empty after %v: %+v", r.Name, time.Since(from).Round(time.Millisecond), got)
		if got.Connections != 0 || got.Queued != 0 || got.Sessions == 0 {
			t.Errorf("%s: %+v", r.Name, got)
		}
		if code := readyz(t, r.Metrics); code != http.StatusServiceUnavailable {
			t.Errorf("%s: readyz says %d", r.Name, code)
		}
		if line := greeting(t, r.SMTP); !strings.HasPrefix(line, "421 4.3.2") {
			t.Errorf("%s greets with %s", r.Name, line)
		}
		b.flows(20)
		b.must("node", "undrain", r.Name)
		if code := readyz(t, r.Metrics); code != http.StatusOK {
			t.Errorf("%s is back: readyz says %d", r.Name, code)
		}
		if line := greeting(t, r.SMTP); !strings.HasPrefix(line, "220 ") {
			t.Errorf("%s is back and greets with %s", r.Name, line)
		}
		b.flows(20)
	}

	// The mail for a pair that is away waits in the queues.
	b.must("node", "stop", "pair2-a")
	b.must("node", "stop", "pair2-b")
	b.await(30*time.Second, "queued messages at relay1", func(s *cluster.Status) bool {
		for _, q := range s.Queues {
			if q.Relay == "relay1" && q.Queued > 3 {
				return true
			}
		}
		return false
	})
	out, err := c.Postern("node", "drain", "relay1", "--wait", "1s", "--flush", "--output", "json")
	var left emptied
	if jerr := json.Unmarshal([]byte(out), &left); jerr != nil || err == nil || !strings.Contains(err.Error(), "still under way") || left.Flushed == 0 || left.Queued == 0 {
		t.Errorf("with mail that cannot be delivered: %v, %v\n%s", err, jerr, out)
	}
	b.must("node", "start", "pair2-a")
	b.must("node", "start", "pair2-b")
	c.AwaitServing("pair2", 30*time.Second)
	got := decode[emptied](b, "node", "drain", "relay1", "--wait", "60s", "--flush")
	t.Logf("relay1 is empty: %+v", got)
	b.must("node", "undrain", "relay1")
	b.ready(30 * time.Second)
	b.flows(20)
	b.end()
}

func readyz(t *testing.T, addr string) int {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func greeting(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

package upgrade

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// TestBegin: a new cluster begins on the newest level, pair and queue alike, and
// nobody has to decide it.
func TestBegin(t *testing.T) {
	c := cluster.Start(t, "--relays", "1", "--pairs", "1", "--users", "1")
	var out string
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		var err error
		if out, err = c.Postern("status", "--output", "json"); err == nil && strings.Count(out, `"used": 2`) == 4 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

package compact

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: octets cost BusyShare times as much time while much mail comes in.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := false
		c, err := New(Config{Notes: filepath.Join(t.TempDir(), "notes"), Rules: Rules{Rate: 1 << 20}, Busy: func() bool { return busy }})
		if err != nil {
			t.Fatal(err)
		}
		took := func() time.Duration {
			begun := time.Now()
			if err := c.wait(t.Context(), 8<<20); err != nil {
				t.Fatal(err)
			}
			return time.Since(begun).Round(time.Second)
		}
		if got := took(); got != 4*time.Second { // what may be read at once is there
			t.Errorf("the first 8 MB take %v", got)
		}
		if got := took(); got != 8*time.Second {
			t.Errorf("8 MB take %v", got)
		}
		busy = true
		if got := took(); got != BusyShare*8*time.Second {
			t.Errorf("8 MB beside mail take %v", got)
		}
	})
}

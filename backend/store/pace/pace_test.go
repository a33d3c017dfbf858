package pace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: octets take as much longer as mail wants it, and another rate holds at
// once.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slower := 1
		p := New(1<<20, func() int { return slower })
		took := func() time.Duration {
			begun := time.Now()
			if err := p.Wait(t.Context(), 8<<20); err != nil {
				t.Fatal(err)
			}
			return time.Since(begun).Round(time.Second)
		}
		if got := took(); got != 4*time.Second { // what may be had at once is there
			t.Errorf("the first 8 MB take %v", got)
		}
		if got := took(); got != 8*time.Second {
			t.Errorf("8 MB take %v", got)
		}
		slower = 5
		if got := took(); got != 5*8*time.Second {
			t.Errorf("8 MB beside mail take %v", got)
		}
		slower = 1
		if p.Set(8 << 20); p.Rate() != 8<<20 {
			t.Errorf("%d octets a second", p.Rate())
		}
		if got := took(); got != time.Second {
			t.Errorf("8 MB take %v at the new rate", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Wait(ctx, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}

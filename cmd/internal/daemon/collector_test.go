package daemon

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/postern-mail/postern/shared/config"
)

func TestGrowth(t *testing.T) {
	for _, tt := range []struct {
		percent, most, live, want int
	}{
		{400, 64 << 20, 8 << 20, 400},
		{400, 64 << 20, 16 << 20, 400},
		{400, 64 << 20, 32 << 20, 200},
		{400, 64 << 20, 1 << 30, 100},
		{50, 64 << 20, 1 << 30, 50},
		{400, 0, 1 << 30, 400},
		{400, 64 << 20, 0, 400},
	} {
		if got := growth(tt.percent, config.Size(tt.most), uint64(tt.live)); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

// TestCollector: what is set follows what is live, and the rules.
func TestCollector(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	now := func() int { p := debug.SetGCPercent(100); debug.SetGCPercent(p); return p }
	live := make([]byte, 64<<20)
	runtime.GC()
	var c collector
	c.set(config.Runtime{GCPercent: 400}, 96<<20)
	if p := now(); p < leastGrowth || p > 150 {
		t.Errorf("%d percent of 64 MB and more", p)
	}
	c.set(config.Runtime{GCPercent: 50}, 96<<20)
	if p := now(); p != 50 {
		t.Errorf("%d percent, 50 wanted", p)
	}
	c.set(config.Runtime{GCPercent: 400}, 96<<20)
	runtime.KeepAlive(live)
	live = nil
	runtime.GC()
	c.pace()
	if p := now(); p != 400 {
		t.Errorf("%d percent of a small heap", p)
	}
}

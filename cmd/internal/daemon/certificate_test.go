package daemon

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchCertificate: a line at each step before the end and at the end, each
// once, and again for the certificate that follows.
func TestWatchCertificate(t *testing.T) {
	const day = 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		var out shared
		var end atomic.Pointer[time.Time]
		set := func(in time.Duration) { at := time.Now().Add(in); end.Store(&at) }
		ctx, cancel := context.WithCancel(context.Background())
		set(90 * day)
		go watchCertificate(ctx, func() time.Time { return *end.Load() }, slog.New(slog.NewTextHandler(&out, nil)))
		pass := func(d time.Duration, warnings, errors int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if w, e := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=ERROR"); w != warnings || e != errors {
				t.Errorf("%d warnings and %d errors, want %d and %d:\n%s", w, e, warnings, errors, out.String())
			}
		}
		pass(59*day, 0, 0)
		pass(2*day, 1, 0)
		pass(23*day, 2, 0)
		pass(5*day+time.Hour, 3, 0)
		pass(2*day, 3, 1)
		set(10 * day)
		pass(time.Hour, 4, 1)
		set(90 * day)
		pass(day, 4, 1)
		set(90 * time.Second) // all three steps at once, and the end when it is there
		pass(70*time.Second, 5, 1)
		pass(21*time.Second, 5, 2)
		cancel()
		synctest.Wait()
	})
}

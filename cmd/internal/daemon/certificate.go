package daemon

import (
	"context"
	"log/slog"
	"time"
)

// lookAtCertificate is how often the end of the certificate, which may have been
// replaced, is compared with the clock, besides at that end itself.
const lookAtCertificate = 5 * time.Second

// certificateSteps are the times before the end at which it is logged, once
// each; the last is the end itself.
var certificateSteps = []time.Duration{30 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour, 0}

// certificateStep is how many of the steps a certificate has passed that has
// left to live.
func certificateStep(left time.Duration) int {
	passed := 0
	for _, step := range certificateSteps {
		if left <= step {
			passed++
		}
	}
	return passed
}

// watchCertificate logs, until ctx ends, that the certificate whose end is end
// is near it or past it. A certificate that has replaced another starts anew.
func watchCertificate(ctx context.Context, end func() time.Time, log *slog.Logger) {
	look := time.NewTimer(0)
	defer look.Stop()
	var known time.Time
	said := 0
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		at := end()
		if !at.Equal(known) {
			known, said = at, 0
		}
		left := time.Until(at)
		if passed := certificateStep(left); passed > said {
			said = passed
			if left <= 0 {
				log.Error("this node's certificate has expired: no peer takes new connections with it", "end", at)
			} else {
				log.Warn("this node's certificate expires soon", "end", at, "left", left.Round(time.Minute))
			}
		}
		next := lookAtCertificate
		if left > 0 {
			next = min(next, left)
		}
		look.Reset(next)
	}
}

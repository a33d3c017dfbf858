/*
Package pace bounds the octets a second that upkeep of a store reads and writes, and
makes it slower while much mail comes in. Whether it does is for others to say.
*/
package pace

import (
	"context"

	"golang.org/x/time/rate"
)

// BusyShare is how much slower upkeep is while much mail comes in.
const BusyShare = 4

// Burst is how many octets may be had at once, after a time without any.
const Burst = 4 << 20

// Pace is an allowance of octets. Any goroutine may call it.
type Pace struct {
	limiter *rate.Limiter
	busy    func() bool
}

// New returns an allowance of n octets a second. busy reports whether much mail
// comes in, and is quick; nil: never.
func New(n int64, busy func() bool) *Pace {
	if busy == nil {
		busy = func() bool { return false }
	}
	return &Pace{rate.NewLimiter(rate.Limit(n), Burst), busy}
}

// Set makes n the octets a second from now on, for who waits too.
func (p *Pace) Set(n int64) { p.limiter.SetLimit(rate.Limit(n)) }

// Rate is the octets a second.
func (p *Pace) Rate() int64 { return int64(p.limiter.Limit()) }

// Wait takes n octets from the allowance, as soon as they are there.
func (p *Pace) Wait(ctx context.Context, n int) error {
	if p.busy() {
		n *= BusyShare
	}
	for n > 0 {
		k := min(n, Burst)
		if err := p.limiter.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return ctx.Err()
}

/*
Package pace bounds the octets a second that upkeep of a store reads and writes, and
makes it slower while mail comes in. How much slower is for others to say.
*/
package pace

import (
	"context"

	"golang.org/x/time/rate"
)

// Burst is how many octets may be had at once, after a time without any.
const Burst = 4 << 20

// Pace is an allowance of octets. Any goroutine may call it.
type Pace struct {
	limiter *rate.Limiter
	slower  func() int
}

// New returns an allowance of n octets a second. slower says by how much less is to
// be had now: 1 is all of it. It is quick; nil: always all.
func New(n int64, slower func() int) *Pace {
	if slower == nil {
		slower = func() int { return 1 }
	}
	return &Pace{rate.NewLimiter(rate.Limit(n), Burst), slower}
}

// Set makes n the octets a second from now on, for who waits too.
func (p *Pace) Set(n int64) { p.limiter.SetLimit(rate.Limit(n)) }

// Rate is the octets a second.
func (p *Pace) Rate() int64 { return int64(p.limiter.Limit()) }

// Wait takes n octets from the allowance, as soon as they are there.
func (p *Pace) Wait(ctx context.Context, n int) error {
	n *= p.slower()
	for n > 0 {
		k := min(n, Burst)
		if err := p.limiter.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return ctx.Err()
}

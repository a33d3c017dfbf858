package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
)

// refusals counts the messages that were refused for the time being since at.
func (f *field) refusals(since time.Time) (n int) {
	for _, e := range f.led.Entries() {
		if e.Outcome == ledger.Refused && e.Answered.After(since) && strings.HasPrefix(e.Reply, "4") {
			n++
		}
	}
	return n
}

// noBounce asserts that nobody was told that a message can never be delivered.
func (f *field) noBounce() error {
	for reply, n := range f.led.Refusals() {
		if strings.HasPrefix(reply, "5") {
			return f.expect(false, "nothing is bounced", "%d times: %s", n, reply)
		}
	}
	return f.expect(true, "nothing is bounced", "no reply was a permanent refusal")
}

// directoryOutage sends to addresses that no relay has heard of, beside the
// load to those they know.
func directoryOutage(ctx context.Context, f *field) error {
	_, domain, _ := strings.Cut(f.load.Recipients[0], "@")
	stranger := func() (string, error) {
		f.mu.Lock()
		f.probes++
		k := f.probes
		f.mu.Unlock()
		o, reply, err := f.load.Probe(f.led, k, fmt.Sprintf("%s-%d@%s", f.load.Run, k, domain))
		if o == ledger.Acknowledged {
			err = errors.Join(err, f.expect(false, "an unknown address is not accepted", "%s", reply))
		}
		return reply, err
	}
	a := Action{Kind: DirectoryOff}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	from := time.Now()
	deferred, last := 0, ""
	for time.Since(from) < f.hold {
		reply, err := stranger()
		if err != nil {
			return err
		}
		if strings.HasPrefix(reply, "4") {
			deferred++
		}
		last = reply
		if err := f.wait(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	n := f.flows(from, time.Now())
	broken := errors.Join(
		f.expect(n > 0, "mail for known users flows", "%d messages acknowledged while the directory is away", n),
		f.expect(deferred > 0, "unknown addresses are told to try again", "%d were; the last answer: %s", deferred, last),
		f.noBounce())
	if err := f.back(ctx, a); err != nil {
		return errors.Join(broken, err)
	}
	ok := f.until(ctx, 30*time.Second, func() bool {
		var err error
		last, err = stranger()
		return err == nil && strings.HasPrefix(last, "5")
	})
	return errors.Join(broken,
		f.expect(ok, "with the directory back, an unknown address is refused for good", "%s", last),
		f.awaitWell(ctx, wellWithin))
}

// gossipDead hands over while nobody hears who serves: the relays have to find
// out by asking.
func gossipDead(ctx context.Context, f *field) error {
	a := Action{Kind: GossipOff}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	if err := f.wait(ctx, f.hold/2); err != nil {
		return err
	}
	if err := f.handOver(ctx); err != nil {
		return err
	}
	from := time.Now()
	if err := f.wait(ctx, f.hold/2); err != nil {
		return err
	}
	n := f.flows(from, time.Now())
	broken := f.expect(n > 0, "mail reaches the new serving replica", "%d messages acknowledged after the hand-over", n)
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin))
}

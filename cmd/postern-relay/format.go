package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/shared/admin"
)

// The level of the queues is a decision of all relays: it is asked for at one of
// them, which refuses while it knows a relay, there or away, whose release does
// not know the level. Each relay keeps the decision with its queue and says it by
// gossip. A relay that was away, or is new, hears it there from any other and
// takes it over; until then its own queue stays on the level before, which
// concerns nobody else.
//
// A new cluster has nothing to decide: its pairs begin on the newest level, and
// the relays go where all pairs are. finalize takes the pairs there first too.

// lookAgain is how often a relay looks what the others have decided.
const lookAgain = time.Second

// handleFormat answers finalize and follows the others.
func (r *relay) handleFormat() {
	r.n.Format = func() uint32 { return uint32(r.queue.Level()) } //nolint:gosec // small
	admin.Handle(r.n.Admin, admin.Finalize, func(_ context.Context, in admin.FinalizeRequest) (admin.FormatLevels, error) {
		return r.finalize(in)
	})
	r.n.Go("format of the queues", func(ctx context.Context) error {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.follow()
			case <-ctx.Done():
				return nil
			}
		}
	})
}

func (r *relay) finalize(in admin.FinalizeRequest) (admin.FormatLevels, error) {
	if in.Pair != "" {
		return admin.FormatLevels{}, fmt.Errorf("%w: a relay holds no pair", admin.ErrBadRequest)
	}
	if err := daemon.CheckLevel(in.Level); err != nil {
		return admin.FormatLevels{}, err
	}
	if err := older(r.n.Members(), in.Level); err != nil {
		return admin.FormatLevels{}, err
	}
	if !in.Check {
		if err := r.raise(in.Level, "finalize"); err != nil {
			return admin.FormatLevels{}, err
		}
	}
	return admin.FormatLevels{Known: version.Format, Used: uint32(r.queue.Level())}, nil //nolint:gosec // small
}

// older refuses a level that a relay's release does not know. One that has said
// goodbye or is away counts by what it last said.
func older(members []gossip.Member, level uint32) error {
	var why []string
	for _, m := range members {
		if m.Role == "relay" && m.Known < level {
			why = append(why, fmt.Sprintf("%s (%s) runs %s, which knows formats up to %d", m.Name, m.State, m.Version, m.Known))
		}
	}
	if len(why) > 0 {
		return fmt.Errorf("%w: format %d: %s", admin.ErrConflict, level, strings.Join(why, "; "))
	}
	return nil
}

// follow takes over what another relay has decided.
func (r *relay) follow() {
	level, by := decided(r.n.Members())
	if int(level) <= r.queue.Level() {
		return
	}
	if level > version.Format {
		r.n.Log.Error("another relay writes a format that this release does not know: upgrade this node", "relay", by, "format", level)
		return
	}
	if err := r.raise(level, "gossip of "+by); err != nil {
		r.n.Log.Error("the format of the queue stays as it is", "err", err)
	}
}

// decided is the highest level that a relay writes, or the one that all pairs
// write when no relay's release is too old for it.
func decided(members []gossip.Member) (level uint32, by string) {
	pairs := uint32(math.MaxUint32) // of none
	for _, m := range members {
		switch {
		case m.Role == "relay" && m.Format > level:
			level, by = m.Format, m.Name
		case m.Role == "backend" && m.State != gossip.Left:
			pairs = min(pairs, m.Format)
		}
	}
	if pairs <= version.Format && pairs > level && older(members, pairs) == nil {
		return pairs, "the pairs"
	}
	return level, by
}

func (r *relay) raise(level uint32, why string) error {
	before := r.queue.Level()
	if err := r.queue.Raise(int(level)); err != nil {
		return err
	}
	if r.queue.Level() != before {
		r.n.Log.Warn("the queue writes another format; a release before cannot open it any more", "format", level, "by", why)
		r.n.Changed()
	}
	return nil
}

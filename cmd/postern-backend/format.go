package main

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/fsx"
)

// raise notes on disk that the replica is on a level before anything of it is
// written; see fsm.Config.
func (p *place) raise(level uint32) error {
	before, err := voter.ReadFormat(fsx.OS, p.group.Dir)
	if err == nil {
		err = voter.Raise(fsx.OS, p.group.Dir, int(level))
	}
	if err == nil && before < int(level) {
		p.n.Log.Warn("the pair writes another format; a release before cannot open this replica any more", "pair", p.group.Pair, "format", level)
	}
	return err
}

// format is the lowest level of the pairs here.
func (o *operator) format() uint32 {
	level := uint32(version.Format)
	for _, p := range o.places {
		if l := p.live.Load(); l != nil {
			level = min(level, l.machine.Level())
		}
	}
	return level
}

// finalize has the pair go to a level. The serving replica takes it, and refuses
// while a member, the witness among them, is away or runs a release that does not
// know the level.
func (o *operator) finalize(ctx context.Context, in admin.FinalizeRequest) (admin.FormatLevels, error) {
	if err := daemon.CheckLevel(in.Level); err != nil {
		return admin.FormatLevels{}, err
	}
	l, err := o.running(in.Pair)
	if err != nil {
		return admin.FormatLevels{}, err
	}
	if !l.replica.Serving() {
		return admin.FormatLevels{}, fmt.Errorf("%w: this replica does not serve", admin.ErrConflict)
	}
	if err := l.allKnow(in.Level); err != nil {
		return admin.FormatLevels{}, err
	}
	if !in.Check {
		if err := l.goTo(ctx, in.Level); err != nil {
			return admin.FormatLevels{}, conflict(err)
		}
	}
	return admin.FormatLevels{Known: version.Format, Used: l.machine.Level()}, nil
}

// allKnow refuses a level that a member of the pair does not know, or that one
// may not know because it is away.
func (l *live) allKnow(level uint32) error {
	var names []string
	for _, m := range l.replica.Configured() {
		names = append(names, m.Name)
	}
	return daemon.Support(l.place.n.Members(), names, level)
}

// goTo has the pair go to a level, if it is below.
func (l *live) goTo(ctx context.Context, level uint32) error {
	if level <= l.machine.Level() {
		return nil
	}
	c := &command.Format{Level: level}
	c.Time = time.Now().UnixNano()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, _, err := l.log.Propose(ctx, command.Append(nil, c)); err != nil {
		return err
	}
	l.place.n.Changed()
	return nil
}

// lookAgain is how often a replica of a new pair looks whether the others are
// there.
const lookAgain = time.Second

// begin has a new pair go to the level that its directories were made for, by an
// entry in the log like any other, once every member is there and knows it.
func (l *live) begin() error {
	level, err := voter.ReadFormat(fsx.OS, l.place.group.Dir)
	if err != nil {
		return err
	}
	want := uint32(level) //nolint:gosec // small
	if want <= l.machine.Level() {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.onStop(func(context.Context) error { cancel(); return nil })
	l.wg.Go(func() {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		said := ""
		for want > l.machine.Level() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if !l.replica.Serving() {
				continue
			}
			err := l.allKnow(want)
			if err == nil {
				err = l.goTo(ctx, want)
			}
			if err != nil && err.Error() != said && ctx.Err() == nil {
				said = err.Error()
				l.place.n.Log.Warn("the new pair keeps the formats of the release before for now", "pair", l.place.group.Pair, "format", want, "err", err)
			}
		}
	})
	return nil
}

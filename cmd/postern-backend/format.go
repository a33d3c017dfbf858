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
	var names []string
	for _, m := range l.replica.Configured() {
		names = append(names, m.Name)
	}
	if err := daemon.Support(o.n.Members(), names, in.Level); err != nil {
		return admin.FormatLevels{}, err
	}
	if !in.Check && in.Level > l.machine.Level() {
		c := &command.Format{Level: in.Level}
		c.Time = time.Now().UnixNano()
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if _, _, err := l.log.Propose(ctx, command.Append(nil, c)); err != nil {
			return admin.FormatLevels{}, conflict(err)
		}
		o.n.Changed()
	}
	return admin.FormatLevels{Known: version.Format, Used: l.machine.Level()}, nil
}

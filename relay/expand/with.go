package expand

import (
	"log/slog"
	"time"

	"github.com/postern-mail/postern/shared/directory"
)

// With returns an expander that is x in everything but the directory that it
// asks and the clock, for Explain: somebody who asks what would happen raises
// no alarms. A nil clock is x's own.
func (x *Expander) With(d directory.Directory, now func() time.Time) *Expander {
	c := &Expander{cfg: x.cfg, options: x.options}
	c.cfg.Directory = d
	c.cfg.Log = slog.New(slog.DiscardHandler)
	c.alarms.log = c.cfg.Log
	if now != nil {
		c.cfg.Now = now
	}
	return c
}

package fsm

import (
	"fmt"

	"github.com/postern-mail/postern/backend/command"
)

// Level is the level of the format that the pair is on, as of the entries
// applied here. Whoever proposes what a level allows asks first: the entry then
// lies behind the one that raised it, on every replica.
func (f *FSM) Level() uint32 { return f.level.Load() }

// raise takes the pair to another level. A level never falls; one that the pair
// has already is nothing to do.
func (f *FSM) raise(c *command.Format) (any, error) {
	if c.Level <= f.Level() {
		return &command.Done{}, nil
	}
	if f.cfg.Raise != nil {
		if err := f.cfg.Raise(c.Level); err != nil {
			return nil, fmt.Errorf("format %d: %w", c.Level, err)
		}
	}
	f.st.Format = c.Level
	f.level.Store(c.Level)
	return &command.Done{}, nil
}

package main

import (
	"errors"
	"fmt"

	"github.com/postern-mail/postern/backend/store/compact"
	"github.com/postern-mail/postern/backend/store/scrub"
	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/ha/seglog"
)

// upkeepLog is the log as the packages that look after the store want it.
type upkeepLog struct{ *seglog.Log }

// compactLog and scrubLog list the same files for different ends.
type (
	compactLog struct{ upkeepLog }
	scrubLog   struct{ upkeepLog }
)

var (
	_ compact.Log  = compactLog{}
	_ scrub.Log    = scrubLog{}
	_ snapshot.Log = upkeepLog{}
)

// Segments implements compact.Log.
func (l compactLog) Segments() []compact.Segment {
	var out []compact.Segment
	for _, s := range l.Log.Segments() {
		if s.Trimmed {
			out = append(out, compact.Segment{
				Base: s.Base, Last: s.Last, Bytes: s.Bytes, Compacted: s.Generation > 0, Newest: l.NewestTime(s),
			})
		}
	}
	return out
}

// Compact implements compact.Log.
func (l compactLog) Compact(base uint64, keep func(uint64) bool, pace func(int) error) (int64, error) {
	c, err := l.Log.Compact(base, keep, pace)
	switch {
	case errors.Is(err, seglog.ErrInUse):
		err = fmt.Errorf("%w: %w", compact.ErrInUse, err)
	case errors.Is(err, seglog.ErrCorrupt):
		err = fmt.Errorf("%w: %w", compact.ErrDamaged, err)
	}
	return c.Before - c.After, err
}

// Segments implements scrub.Log.
func (l scrubLog) Segments() []scrub.Segment {
	first, err := l.FirstIndex()
	if err != nil {
		return nil
	}
	var out []scrub.Segment
	for _, s := range l.Log.Segments() {
		if s.Last >= s.Base {
			out = append(out, scrub.Segment{Base: s.Base, Last: s.Last, Needed: first > 0 && s.Last >= first})
		}
	}
	return out
}

// Parse implements scrub.Log.
func (l scrubLog) Parse(fetched []byte) ([]byte, error) {
	e, err := seglog.ParseEntry(fetched)
	if err != nil {
		return nil, err
	}
	return e.Data, nil
}

// Missing implements scrub.Log.
func (l scrubLog) Missing(err error) bool { return seglog.Gone(err) }

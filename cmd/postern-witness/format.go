package main

import (
	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/fsx"
)

// A witness keeps entries as octets and reads none, so that the level of the pair
// changes nothing here but the note that an older release is to leave the
// directory alone.

// finalize makes the note.
func (s *seat) finalize(in admin.FinalizeRequest) (admin.FormatLevels, error) {
	if err := daemon.CheckLevel(in.Level); err != nil {
		return admin.FormatLevels{}, err
	}
	if !in.Check {
		if err := voter.Raise(fsx.OS, s.group.Dir, int(in.Level)); err != nil {
			return admin.FormatLevels{}, err
		}
	}
	return admin.FormatLevels{Known: version.Format, Used: s.format()}, nil
}

// format is the level of the directory.
func (s *seat) format() uint32 {
	level, err := voter.ReadFormat(fsx.OS, s.group.Dir)
	if err != nil {
		return version.FormatBefore
	}
	return uint32(level) //nolint:gosec // small
}

// formatOf is the lowest level of the pairs here.
func formatOf(seats []*seat) uint32 {
	level := uint32(version.Format)
	for _, s := range seats {
		level = min(level, s.format())
	}
	return level
}

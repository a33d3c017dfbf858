// Package logcopy opens the log of a snapshot, or that of a replica that does
// not run, for package snapshot, which does not know package seglog.
package logcopy

import (
	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/fsx"
)

var (
	_ snapshot.Opener = Open
	_ snapshot.Reader = (*seglog.Log)(nil)
)

// Open opens the log in a directory, which stays as it is.
func Open(dir string) (snapshot.Reader, func() error, error) {
	l, err := seglog.Open(seglog.Config{Dir: dir, CacheBytes: -1, OpenFiles: 16, ReadOnly: true})
	if err != nil {
		return nil, nil, err
	}
	return l, l.Close, nil
}

// Check reads one file of a log whole.
func Check(name string) error { return seglog.CheckFile(fsx.OS, name) }

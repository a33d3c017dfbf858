// Package version says which release a program is. Everything that crosses a
// process carries a format version of its own; this one is for people.
package version

import (
	"runtime/debug"
	"sync"
)

// Release is the release that this source makes. A build of something between two
// releases says so by -ldflags "-X .../cmd/internal/version.Release=0.2.1-rc1".
var Release = "0.2.0"

// Levels of the formats. A release reads and writes what is on its own level and
// on the one before; it writes on the one before until the cluster has decided to
// go on (postern upgrade finalize). A pair that it creates begins on its own level,
// unless raft.new_pair says otherwise, and relays go where all pairs are, so that a
// new cluster has nothing to decide. What is on which level is said where each
// format is: backend/command, relay/queue, ha/replica/voter.
const (
	Format       = 2
	FormatBefore = 1
)

// String is the release, followed by the commit it was built from when the
// build knows it: "0.2.0+4f1c2d3a9b77", with ".dirty" for changed sources.
var String = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Release
	}
	var commit, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			commit = "+" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ".dirty"
		}
	}
	if commit == "" {
		return Release
	}
	return Release + commit + dirty
})

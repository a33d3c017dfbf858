package replica_test

import (
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/fsx"
)

// fullDisk is a file system that has no room for a segment while full is set.
type fullDisk struct {
	fsx.FS
	full *atomic.Bool
}

func (f fullDisk) OpenFile(name string, flag int, perm fs.FileMode) (fsx.File, error) {
	h, err := f.FS.OpenFile(name, flag, perm)
	if err == nil && strings.HasSuffix(name, ".pre") {
		h = segmentFile{h, f.full}
	}
	return h, err
}

type segmentFile struct {
	fsx.File
	full *atomic.Bool
}

func (f segmentFile) Allocate(size int64) error {
	if f.full.Load() {
		return fsx.ErrNoSpace
	}
	return f.File.Allocate(size)
}

// TestFull fills the disk of the replica that serves: it hands over to the one
// that has room, and takes over again only when it has room itself. When both are
// full, large proposals are refused and small ones are not.
func TestFull(t *testing.T) {
	var full [2]atomic.Bool
	flag := func(name string) *atomic.Bool { return &full[name[0]-'a'] }
	var low [2]atomic.Bool // room for the state
	c := newCluster(t, options{Keep: true, Segment: 64 << 10, Edit: func(n *node, cfg *replica.Config) {
		if n.Name != "w" {
			cfg.FS, cfg.Low = fullDisk{fsx.OS, flag(n.Name)}, low[n.Name[0]-'a'].Load
		}
	}})
	n := c.Serving()
	o := c.Other(n)
	use := func(n *node) { // until the next segment is asked for
		t.Helper()
		c.Eventually("the full disk is felt", func() bool {
			return errors.Is(propose(n, "much", 10<<10), replica.ErrNoSpace) || !n.R.Serving()
		})
	}
	flag(n.Name).Store(true)
	use(n)
	c.Eventually("the other serves", o.R.Serving)
	must(t, propose(o, "there is room", 10<<10))
	if err := o.R.Transfer(t.Context(), c.Peer(n.Name).ID); err == nil || !errors.Is(err, replica.ErrDraining) && !errors.Is(err, replica.ErrBehind) {
		t.Errorf("transfer to a replica that has no room: %v", err)
	}

	flag(n.Name).Store(false)
	sameLists(t, c, o, n)
	flag(n.Name).Store(true)
	flag(o.Name).Store(true)
	use(o)
	c.Eventually("one of them serves, full", func() bool {
		for _, m := range []*node{n, o} {
			if m.R.Serving() && errors.Is(propose(m, "much", 10<<10), replica.ErrNoSpace) {
				return propose(m, "a flag", 100) == nil
			}
		}
		return false
	})
	flag(n.Name).Store(false)
	flag(o.Name).Store(false)
	c.Eventually("mail is taken again", func() bool { return propose(n, "much", 10<<10) == nil || propose(o, "much", 10<<10) == nil })

	// The same when it is the state that has no room.
	n = c.Serving()
	o = c.Other(n)
	alarm := func() bool { return strings.Contains(strings.Join(n.R.Local().Alarms, " "), "disk is full") }
	low[n.Name[0]-'a'].Store(true)
	c.Eventually("the other serves", o.R.Serving)
	must(t, propose(o, "there is room", 10<<10))
	if !alarm() {
		t.Errorf("alarms: %q", n.R.Local().Alarms)
	}
	low[o.Name[0]-'a'].Store(true)
	c.Eventually("one of them serves without room for the state", func() bool {
		for _, m := range []*node{n, o} {
			if m.R.Serving() && errors.Is(propose(m, "much", 10<<10), replica.ErrNoSpace) {
				return propose(m, "a flag", 100) == nil
			}
		}
		return false
	})
	low[0].Store(false)
	low[1].Store(false)
	c.Eventually("mail is taken once more", func() bool { return propose(n, "much", 10<<10) == nil || propose(o, "much", 10<<10) == nil })
	if alarm() {
		t.Errorf("alarms: %q", n.R.Local().Alarms)
	}
	sameLists(t, c, o, n)
}

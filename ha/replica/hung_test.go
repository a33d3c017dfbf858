package replica_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/shared/fsx"
)

// gateDisk is a file system whose flushes wait while it is locked.
type gateDisk struct {
	fsx.FS
	gate *sync.RWMutex
}

func (d gateDisk) OpenFile(name string, flag int, perm fs.FileMode) (fsx.File, error) {
	h, err := d.FS.OpenFile(name, flag, perm)
	if err == nil {
		h = gateFile{h, d.gate}
	}
	return h, err
}

type gateFile struct {
	fsx.File
	gate *sync.RWMutex
}

func (f gateFile) Sync() error {
	f.gate.RLock()
	defer f.gate.RUnlock()
	return f.File.Sync()
}

// TestHung has the disk of a replica answer no more. One that follows raises an
// alarm and goes on; one that leads ends, as soon as another one could serve: this
// one can neither commit nor step down, and its heartbeats keep the others quiet.
func TestHung(t *testing.T) {
	var mu sync.Mutex
	ended := map[string]error{}
	why := func(name string) error {
		mu.Lock()
		defer mu.Unlock()
		return ended[name]
	}
	var gates [2]sync.RWMutex
	gate := func(name string) *sync.RWMutex { return &gates[name[0]-'a'] }
	c := newCluster(t, options{Keep: true, OnFatal: func(node string, err error) {
		mu.Lock()
		defer mu.Unlock()
		ended[node] = err
	}, Edit: func(n *node, cfg *replica.Config) {
		cfg.Timings.Hung = replicatest.Slow * time.Second
		if n.Name != "w" {
			cfg.FS = gateDisk{fsx.OS, gate(n.Name)}
		}
	}})
	n := c.Serving()
	o := c.Other(n)
	must(t, n.Fill(20, 100))
	alarmed := func(r *replica.Replica) bool {
		return slices.ContainsFunc(r.Local().Alarms, func(s string) bool { return strings.Contains(s, "the disk does not answer") })
	}

	gate(o.Name).Lock()
	c.Eventually("the one that follows raises an alarm, and the other serves on", func() bool {
		must(t, propose(n, "x", 100))
		return alarmed(o.R)
	})
	gate(o.Name).Unlock()
	c.Eventually("the alarm ends", func() bool { return !alarmed(o.R) })
	if err := errors.Join(why("a"), why("b")); err != nil {
		t.Fatalf("a process has ended: %v", err)
	}

	// Without another one that could serve it stays.
	gate(n.Name).Lock()
	c.Wire.Isolate(o.Name, []string{n.Name, "w"}, true)
	wait := make(chan error, 1)
	go func() { wait <- propose(n, "y", 100) }()
	c.Eventually("the one that leads raises an alarm", func() bool { return alarmed(n.R) })
	if err := why(n.Name); err != nil {
		t.Errorf("%s has ended with nobody to serve in its place: %v", n.Name, err)
	}
	c.Wire.Isolate(o.Name, []string{n.Name, "w"}, false)
	c.Eventually(n.Name+" ends", func() bool { return errors.Is(why(n.Name), replica.ErrHung) })
	c.Wire.Isolate(n.Name, []string{o.Name, "w"}, true) // as its end does
	c.Eventually("the other one serves", func() bool { return o.R.Serving() })
	must(t, o.Fill(5, 100))
	gate(n.Name).Unlock()
	<-wait // its outcome is not known
	c.Wire.Isolate(n.Name, []string{o.Name, "w"}, false)
}

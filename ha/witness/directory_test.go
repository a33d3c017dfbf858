package witness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/ha/witness"
)

// content returns what a stopped member's directory says: its id, term, vote
// and entries.
func content(t *testing.T, c *cluster, name string) map[string]string {
	t.Helper()
	dir := c.Config(name, false).Dir
	got := map[string]string{}
	for _, file := range []string{"id", "raft/stable"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		must(t, err)
		got[file] = string(b)
	}
	l := openLog(t, c, name)
	defer l.Close()
	first, err := l.FirstIndex()
	must(t, err)
	last, err := l.LastIndex()
	must(t, err)
	for i := max(first, 1); i <= last; i++ {
		var e raft.Log
		must(t, l.GetLog(i, &e))
		got[fmt.Sprint(i)] = fmt.Sprint(e.Term, e.Type, e.Data, e.Extensions)
	}
	return got
}

// TestCreate makes the directories of a group beforehand, twice, and runs it
// without Bootstrap. Making them once more later changes nothing either.
func TestCreate(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true, Create: true, Idle: true, Segment: 256 << 10})
	all := []string{"a", "b", "w"}
	begin := map[string]map[string]string{}
	for _, name := range all {
		begin[name] = content(t, c, name)
		if begin[name]["1"] == "" || len(begin[name]) != 3 {
			t.Errorf("%s begins with %v", name, begin[name])
		}
		c.Create(name)
		if now := content(t, c, name); !maps.Equal(now, begin[name]) {
			t.Errorf("made twice, %s holds %v, before %v", name, now, begin[name])
		}
	}
	if begin["a"]["1"] != begin["w"]["1"] || begin["a"]["1"] != begin["b"]["1"] {
		t.Error("the members begin with different configurations")
	}
	for _, name := range all {
		c.Start(name, false)
	}
	n := c.Serving()
	for i := range 20 {
		must(t, n.Propose(fmt.Sprint(i), 100))
	}
	items := n.List.Items()
	c.StopAll()
	for _, name := range all {
		before := content(t, c, name)
		c.Create(name)
		if now := content(t, c, name); !maps.Equal(now, before) {
			t.Errorf("made again after it ran, %s differs", name)
		}
		c.Start(name, false)
	}
	if got := c.Serving().List.Items(); !slices.Equal(got, items) {
		t.Errorf("%d of %d items", len(got), len(items))
	}
}

// TestDirectory checks W6: a member that lost its directory, or the log in it,
// does not start, and nothing is made in its place.
func TestDirectory(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true, Create: true, Segment: 256 << 10})
	n := c.Serving()
	must(t, n.Propose("one", 100))
	w := c.Nodes["w"].W
	c.Eventually("the witness has it", func() bool { return w.Status().Last >= n.R.Local().Last })
	c.Stop("w")
	cfg := c.Config("w", false).Config
	whole := cfg.Dir + "-whole"
	must(t, os.CopyFS(whole, os.DirFS(cfg.Dir)))
	for what, tt := range map[string]struct {
		change func(cfg *witness.Config)
		want   error
	}{
		"no directory":       {func(cfg *witness.Config) { must(t, os.RemoveAll(cfg.Dir)) }, voter.ErrNoDirectory},
		"empty directory":    {func(cfg *witness.Config) { empty(t, cfg.Dir) }, voter.ErrNoDirectory},
		"no id":              {func(cfg *witness.Config) { must(t, os.Remove(filepath.Join(cfg.Dir, "id"))) }, voter.ErrNoDirectory},
		"empty log":          {func(cfg *witness.Config) { empty(t, filepath.Join(cfg.Dir, "log")) }, voter.ErrNoLog},
		"no log":             {func(cfg *witness.Config) { must(t, os.RemoveAll(filepath.Join(cfg.Dir, "log"))) }, voter.ErrNoLog},
		"no log, to be made": {func(cfg *witness.Config) { empty(t, filepath.Join(cfg.Dir, "log")); cfg.Bootstrap = true }, voter.ErrNoLog},
		"no id, to be made":  {func(cfg *witness.Config) { must(t, os.Remove(filepath.Join(cfg.Dir, "id"))); cfg.Bootstrap = true }, voter.ErrIdentity},
		"another id":         {func(cfg *witness.Config) { cfg.ID, cfg.Peers[2].ID = "x", "x" }, voter.ErrIdentity},
		"another pair":       {func(cfg *witness.Config) { cfg.Pair = "pair2" }, voter.ErrIdentity},
		"whole":              {func(*witness.Config) {}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			must(t, os.RemoveAll(cfg.Dir))
			must(t, os.CopyFS(cfg.Dir, os.DirFS(whole)))
			changed := cfg
			changed.Peers = slices.Clone(cfg.Peers)
			tt.change(&changed)
			before := list(t, cfg.Dir)
			w, err := witness.New(changed)
			if !errors.Is(err, tt.want) {
				t.Errorf("New: %v, want %v", err, tt.want)
			}
			if err == nil {
				must(t, w.Close())
				return
			}
			if after := list(t, cfg.Dir); tt.want == voter.ErrNoDirectory && after != before {
				t.Errorf("made:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	must(t, n.Propose("two", 100))
}

func empty(t *testing.T, dir string) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(dir, 0o700))
}

// list names all files under dir, "" if it is not there.
func list(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		fmt.Fprintln(&b, path)
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	must(t, err)
	return b.String()
}

// TestEmptiedData checks W6 for a data replica whose state went with its log.
func TestEmptiedData(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true, Create: true, Segment: 256 << 10})
	n := c.Serving()
	must(t, n.Propose("one", 100))
	name := c.Other(n).Name
	c.Stop(name)
	cfg := c.Config(name, false)
	empty(t, filepath.Join(cfg.Dir, "log"))
	cfg.FSM = replicatest.EmptyList(filepath.Join(cfg.Dir, "state"))
	if r, err := replica.New(cfg); !errors.Is(err, voter.ErrNoLog) {
		t.Errorf("New: %v", err)
		if err == nil {
			must(t, r.Shutdown(context.Background()))
		}
	}
}

// TestSnapshotRefused checks W3 from the other side: a data replica refuses a
// witness's snapshot when one arrives all the same, and goes on.
func TestSnapshotRefused(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true})
	n := c.Serving()
	must(t, n.Propose("one", 100))
	o := c.Other(n)
	term := o.R.Local().Term
	c.Stop("w")
	cfg := c.Config("w", false)
	l, err := net.Listen("tcp", cfg.Bind)
	must(t, err)
	port, err := raftnet.NewPort(l, cfg.ServerTLS, cfg.Authorize, slog.New(slog.DiscardHandler))
	must(t, err)
	tr, err := raftnet.New(raftnet.Config{
		Pair: cfg.Pair, ID: cfg.ID, Addr: cfg.Bind, Port: port, TLS: cfg.ClientTLS, Authorize: cfg.Authorize,
		Member: func(string) bool { return true }, Resolve: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	note := manifest.Note{Kind: manifest.Witness, Origin: cfg.ID}.Encode()
	target := c.Peer(o.Name)
	err = tr.InstallSnapshot(raft.ServerID(target.ID), raft.ServerAddress(target.Addr), &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(cfg.ID), Addr: []byte(cfg.Bind)},
		SnapshotVersion: raft.SnapshotVersionMax, Term: term, LastLogIndex: 1000, LastLogTerm: term,
		Configuration: raft.EncodeConfiguration(raft.Configuration{}), Size: int64(len(note)),
	}, &raft.InstallSnapshotResponse{}, bytes.NewReader(note))
	if err == nil || !strings.Contains(err.Error(), manifest.ErrWitness.Error()) {
		t.Errorf("the snapshot of a witness: %v", err)
	}
	must(t, tr.Close())
	must(t, port.Close())
	if names := snapshots(t, c, o.Name); len(names) > 0 {
		t.Errorf("kept: %v", names)
	}
	c.Start("w", false)
	n = c.Serving()
	must(t, n.Propose("two", 100))
	sameLists(t, c, n, c.Other(n))
	if got := n.List.Items(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("items %v", got)
	}
}

// TestManyPairs runs the witnesses of several pairs on one port.
func TestManyPairs(t *testing.T) {
	t.Parallel()
	auth := replicatest.NewCA(t)
	server, _ := auth.Issue(t, "pairs-witness")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port, err := raftnet.NewPort(l, server, replicatest.Authorize("pair"), slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, port.Close()) })
	pairs := make([]*cluster, 3)
	for i := range pairs {
		pairs[i] = replicatest.New(t, options{Keep: true, Pair: fmt.Sprint("pair", i+1), CA: auth, WitnessPort: port})
	}
	for i, c := range pairs {
		must(t, c.Serving().Propose(fmt.Sprint("one of ", i), 100))
	}
	// A second witness of a pair has no place on the port.
	second := pairs[0].Config("w", true).Config
	second.Dir += "-second"
	if w, err := witness.New(second); err == nil {
		must(t, w.Close())
		t.Error("two witnesses of one pair on one port")
	}
	// Each pair needs its witness, and only its own.
	pairs[0].Stop("w")
	for i, c := range pairs[1:] {
		n := c.Serving()
		o := c.Other(n)
		c.Kill(n.Name)
		c.Eventually("the other serves", o.R.Serving)
		must(t, o.Propose(fmt.Sprint("two of ", i+1), 100))
	}
	must(t, pairs[0].Serving().Propose("two of 0", 100))
	w := pairs[0].Start("w", false).W
	n := pairs[0].Serving()
	pairs[0].Eventually("the witness is back", func() bool { return w.Status().Last >= n.R.Local().Last })
	pairs[0].Kill(pairs[0].Other(n).Name)
	must(t, n.Propose("three of 0", 100))
	for i, c := range pairs {
		items := c.Serving().List.Items()
		for _, item := range items {
			if !strings.HasSuffix(item, fmt.Sprint(" of ", i)) {
				t.Errorf("pair %d has %q", i, item)
			}
		}
		if want := map[bool]int{true: 3, false: 2}[i == 0]; len(items) != want {
			t.Errorf("pair %d has %v", i, items)
		}
	}
}

package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/integration/cluster"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	removePrevious()
	os.Exit(code)
}

const (
	// stepBound is the longest silence that the replacement of one node may cause
	// (F35).
	stepBound = 5 * time.Second
	// faultBound is that of a node that is killed.
	faultBound = 15 * time.Second
)

// mixedFor is how long two releases run beside each other before and after the
// kills.
func mixedFor() time.Duration {
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		return 2 * time.Minute
	}
	return 2 * time.Second
}

// TestUpgrade: under load, backends first, mixed, back, relays first, mixed, back
// and forward again, then finalize. Nothing acknowledged is lost, nothing is there
// twice, and no step silences sender, reader or login for longer than its bound.
// After finalize the new formats are on disk, and the old programs refuse them and
// change nothing.
func TestUpgrade(t *testing.T) {
	before := previousPrograms(t)
	place := filepath.Join(t.TempDir(), "bin") // where --replace puts programs
	if err := os.CopyFS(place, os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	c := cluster.Start(t, "--binaries", place, "--relays", "2", "--pairs", "1", "--users", "8")
	now := c.Bin
	b := begin(t, c, 40)
	b.ready(30 * time.Second)
	b.pass(time.Second)

	b.upgrade("backends first", "run", "--tier", "witness", "--binaries", now)
	b.upgrade("backends first", "run", "--tier", "backend", "--binaries", now)
	b.mixed("old relays, new backends")
	if out, err := c.Postern("upgrade", "finalize"); err == nil || !strings.Contains(err.Error(), "does not know format") {
		t.Errorf("finalize with old relays: %v\n%s", err, out)
	}
	b.upgradeByCommand("backends first", now, place)
	b.pass(time.Second)
	b.upgrade("back", "rollback", "--binaries", before)
	b.pass(time.Second)

	b.upgrade("relays first", "run", "--tier", "relay", "--binaries", now)
	b.mixed("new relays, old backends")
	b.must("node", "stop", "pair1-a") // a log that grows cannot be read from outside
	if err := onLevel(c, 1); err != nil {
		t.Error(err)
	}
	b.must("node", "start", "pair1-a")
	b.ready(30 * time.Second)
	b.upgrade("relays first", "run", "--order", "relays-first", "--binaries", now)
	b.pass(time.Second)
	b.upgrade("back", "rollback", "--binaries", before)
	b.pass(time.Second)
	b.upgrade("all at once", "run", "--binaries", now)

	// A relay that is away hears of the decision when it is back.
	b.must("node", "stop", "relay2")
	from := time.Now()
	b.must("upgrade", "finalize")
	b.note("finalize", "without relay2", from)
	b.must("node", "start", "relay2")
	b.ready(30 * time.Second)
	b.await(10*time.Second, "level 2 on every node", func(*cluster.Status) bool {
		out, err := c.Postern("status", "--output", "json")
		return err == nil && strings.Count(out, `"used": 2`) == 5
	})
	if out, err := c.Postern("upgrade", "rollback", "--binaries", before); err == nil || !strings.Contains(err.Error(), "no way back") {
		t.Errorf("rollback after finalize: %v\n%s", err, out)
	}
	b.pass(2 * time.Second)
	b.after(before)
}

// upgradeByCommand replaces the relays as an operator's own command does: stop,
// put the program in its place, start. The first attempt fails, which must leave
// a relay that works, and the second goes on.
func (b *bench) upgradeByCommand(phase, now, place string) {
	b.t.Helper()
	args := []string{"--tier", "relay", "--replace"}
	if out, err := b.c.Postern(append([]string{"upgrade", "run", "--drain-timeout", "1s"}, append(args, "exit 7")...)...); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		b.t.Errorf("a command that fails: %v\n%s", err, out)
	}
	b.ready(10 * time.Second)
	b.t.Setenv("BIN", now)
	b.t.Setenv("PLACE", place)
	b.t.Setenv("CLUSTER", b.c.Dir)
	b.upgrade(phase, append([]string{"run"}, append(args, `set -eu
"$BIN/postern" node stop --dir "$CLUSTER" "$POSTERN_NODE"
cp "$BIN/postern-$POSTERN_TIER" "$PLACE/new"
mv "$PLACE/new" "$PLACE/postern-$POSTERN_TIER"
"$BIN/postern" node start --dir "$CLUSTER" "$POSTERN_NODE"
test "$POSTERN_FROM" != "$POSTERN_TO"`)...)...)
}

// must runs the operator's tool.
func (b *bench) must(args ...string) {
	b.t.Helper()
	if out, err := b.c.Postern(args...); err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
}

// mixed lets mail flow and then kills a relay and the serving replica.
func (b *bench) mixed(phase string) {
	b.t.Helper()
	b.pass(mixedFor())
	for _, victim := range []string{"relay1", b.c.AwaitServing("pair1", 15*time.Second)} {
		from := time.Now()
		b.c.Signal(victim, syscall.SIGKILL)
		b.c.AwaitServing("pair1", 15*time.Second)
		b.ready(30 * time.Second)
		b.note(phase, "kill -9 "+victim, from)
	}
	b.pass(mixedFor())
}

// after is what has to hold after finalize.
func (b *bench) after(before string) {
	t, c := b.t, b.c
	t.Helper()
	b.end()
	b.quiet(30 * time.Second)
	// A message that waits, so that a queue file is there.
	b.must("node", "stop", "pair1-a")
	b.must("node", "stop", "pair1-b")
	b.sendOne()
	c.Stop()
	if err := onLevel(c, 2); err != nil {
		t.Error(err)
	}
	print := fingerprint(t, c.Dir)
	for node, program := range map[string]string{"relay1": "postern-relay", "relay2": "postern-relay", "pair1-a": "postern-backend", "pair1-b": "postern-backend", "pair1-w": "postern-witness"} {
		refused(t, filepath.Join(before, program), filepath.Join(c.Dir, node, node+".yaml"))
	}
	if now := fingerprint(t, c.Dir); !slices.Equal(print, now) {
		t.Errorf("the old programs have changed something:\n%s\n%s", strings.Join(print, "\n"), strings.Join(now, "\n"))
	}
	c.Args("--relays", "2", "--pairs", "1", "--users", "8")
	c.Run()
	b.ready(30 * time.Second)
	b.quiet(30 * time.Second)
	b.judge()
}

// sendOne gives a relay one message while no replica serves.
func (b *bench) sendOne() {
	b.t.Helper()
	ok, _, _ := b.book.Counts()
	ctx, cancel := context.WithTimeout(b.t.Context(), 60*time.Second)
	defer cancel()
	for n := 0; ctx.Err() == nil; n++ {
		if _, _, err := b.load.Probe(b.book, n, b.load.Recipients[0]); err != nil {
			b.t.Log(err)
		}
		if now, _, _ := b.book.Counts(); now > ok {
			return
		}
	}
	b.t.Fatal("no relay takes a message while the pair is away")
}

// onLevel looks for what is on disk: on level 2 both formats have to be there, on
// level 1 neither may be. Relays may run, and pair1-a must not.
func onLevel(c *cluster.Cluster, level int) error {
	var errs []error
	queued, sealed := 0, 0
	for _, relay := range []string{"relay1", "relay2"} {
		files, err := filepath.Glob(filepath.Join(c.Dir, relay, "queue", "?", "*.env"))
		errs = append(errs, err)
		for _, name := range files {
			data, err := os.ReadFile(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // delivered meanwhile
			}
			errs = append(errs, err)
			queued++
			if bytes.HasPrefix(data, []byte("postern-queue 3 3\n")) && bytes.Contains(data, []byte("\nseal ")) {
				sealed++
			}
		}
	}
	compact, err := compactDeliveries(filepath.Join(c.Dir, "pair1-a", "pair1", "log"))
	errs = append(errs, err)
	switch {
	case level == 1 && (sealed > 0 || compact > 0):
		errs = append(errs, errors.New("a format of level 2 is on disk before finalize"))
	case level == 2 && (sealed == 0 || sealed != queued):
		errs = append(errs, errors.New("queue files of version 3 are missing"))
	case level == 2 && compact == 0:
		errs = append(errs, errors.New("deliveries of version 3 are missing in the log"))
	}
	return errors.Join(errs...)
}

// compactDeliveries counts the Deliver entries of version 3 in a log.
func compactDeliveries(dir string) (n int, err error) {
	l, err := seglog.Open(seglog.Config{Dir: dir, CacheBytes: -1, OpenFiles: 16, ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	first, err := l.FirstIndex()
	if err != nil {
		return 0, err
	}
	last, err := l.LastIndex()
	if err != nil {
		return 0, err
	}
	for i := max(first, 1); i <= last; i++ {
		data, err := l.ReadEntry(i, nil)
		if err != nil {
			return n, err
		}
		if len(data) > 2 && data[0] == 3 && data[1] == 2 { // version, operation
			n++
		}
	}
	return n, nil
}

// refused runs an old program on what a new one has finalized.
func refused(t *testing.T, program, config string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--config", config)
	cmd.Dir = filepath.Dir(config)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !bytes.Contains(out, []byte("newer-format")) {
		t.Errorf("%s %s: %v, want exit 1 and a reason\n%s", program, config, err, out)
	}
}

// fingerprint is every file of the queues and of the replicas' directories.
func fingerprint(t *testing.T, dir string) (out []string) {
	t.Helper()
	for _, pattern := range []string{"relay*/queue", "pair1-*/pair1"} {
		roots, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(roots) == 0 {
			t.Fatal(pattern, err)
		}
		for _, root := range roots {
			err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				data, err := os.ReadFile(p)
				sum := sha256.Sum256(data)
				out = append(out, strings.TrimPrefix(p, dir)+" "+hex.EncodeToString(sum[:8]))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// TestDrill runs the drill of an operator who tries an upgrade and the way back.
func TestDrill(t *testing.T) {
	if os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("SKIP: nightly")
	}
	before := previousPrograms(t)
	c := cluster.Start(t, "--relays", "2", "--pairs", "1", "--users", "8")
	out, err := exec.Command(filepath.Join(c.Bin, "postern"), "drill", "run", "rolling-upgrade", "--dir", c.Dir, "--other", before, "--slack", "4").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "two releases run side by side: after"); n != 2 {
		t.Errorf("two releases were seen %d times, want 2\n%s", n, out)
	}
	// Its negative control: a message that was taken away is missed, and nothing else.
	out, err = exec.Command(filepath.Join(c.Bin, "postern"), "drill", "run", "rolling-upgrade", "--dir", c.Dir, "--other", before, "--slack", "4", "--for", "8s", "--negative-control").CombinedOutput()
	if err == nil || strings.Count(string(out), "\n  FAIL ") != 1 || !strings.Contains(string(out), "FAIL every acknowledged message is there: 1 of ") {
		t.Errorf("a message that was taken away: %v\n%s", err, out)
	}
}

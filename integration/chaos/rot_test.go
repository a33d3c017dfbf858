package chaos

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// TestBitRot flips a bit in the log of a replica, under an intact head: in a
// sealed segment while the daemon runs, which a scrub mends from the other one,
// and in the newest segment while it does not, which is mended before it takes
// part again. Both are seen in its figures.
func TestBitRot(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "10")
	pair := c.Info().Pairs[0]
	led := cluster.NewLedger()
	victim := dataNode(t, pair, otherData(pair, c.AwaitServing(pair.Name, 10*time.Second)))
	dir := filepath.Join(victim.Dir, pair.Name, "log")
	load := cluster.Load{Senders: 8, Addrs: smtpAddrs(c), Recipients: recipients(c), Size: 200 << 10}
	const into = 2 << 20 // place of the bit in a segment
	run(t, led, load, func() bool {
		names := segments(t, dir)
		return len(names) >= 2 && written(t, names[len(names)-1], 2*into)
	})
	awaitReplicas(t, c, pair.Name)
	sealed := segments(t, dir)[0]
	was := flip(t, sealed, into)
	if out, err := c.Postern("store", "scrub", "--on", victim.Name); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !bytes.Equal(peek(t, sealed, into), was) {
		t.Error("the bit is as it was flipped after the scrub")
	}
	if n := metric(t, victim, "postern_scrub_repaired_frames_total", pair.Name); n < 1 {
		t.Errorf("%v frames repaired", n)
	}
	if n := metric(t, victim, "postern_scrub_lost", pair.Name); n != 0 {
		t.Errorf("%v frames lost", n)
	}
	out, err := c.Postern("pair", "status", pair.Name)
	if err != nil || !strings.Contains(out, "repaired from the other replica, 0 lost") {
		t.Errorf("pair status says nothing of the repair: %v\n%s", err, out)
	}

	if out, err := c.Postern("node", "stop", victim.Name); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	newest := segments(t, dir)
	was = flip(t, newest[len(newest)-1], into)
	if out, err := c.Postern("node", "start", victim.Name); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	awaitReplicas(t, c, pair.Name)
	if n := metric(t, dataNode(t, c.Info().Pairs[0], victim.Name), "postern_open_mended_total", pair.Name); n < 1 {
		t.Errorf("mended %v times at the start", n)
	}
	if !bytes.Equal(peek(t, newest[len(newest)-1], into), was) {
		t.Error("the bit is as it was flipped after the start")
	}
	awaitEmptyQueues(t, c, 30*time.Second)
	checkMailboxes(t, c, led)
	checkDigests(t, c, pair.Name)
}

func dataNode(t *testing.T, pair cluster.Pair, name string) cluster.Node {
	t.Helper()
	for _, n := range pair.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %s", name)
	return cluster.Node{}
}

// run sends until done.
func run(t *testing.T, led *cluster.Ledger, load cluster.Load, done func() bool) {
	t.Helper()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { load.Run(led, stop); close(ended) }()
	defer func() { close(stop); <-ended }()
	await(t, "enough mail has come in", 120*time.Second, done)
}

// segments lists the segments of a log, the oldest first.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func peek(t *testing.T, name string, off int64) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64)
	if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

// written reports whether a segment, which is reserved as zeroes, has something
// behind off.
func written(t *testing.T, name string, off int64) bool {
	return !bytes.Equal(peek(t, name, off), make([]byte, 64))
}

// flip flips a bit of a file and returns what was there.
func flip(t *testing.T, name string, off int64) (was []byte) {
	t.Helper()
	was = peek(t, name, off)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{was[0] ^ 4}, off); err != nil {
		t.Fatal(err)
	}
	return was
}

// metric reads a figure of a pair from a node.
func metric(t *testing.T, n cluster.Node, name, pair string) float64 {
	t.Helper()
	res, err := http.Get("http://" + n.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, fmt.Sprintf("%s{pair=%q} ", name, pair)); ok {
			x, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
	}
	t.Errorf("%s has no %s of %s", n.Name, name, pair)
	return 0
}

package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"flag"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

var (
	storeMB = flag.Int("store", 64, "MB of the store that a replica is seeded with")
	fillFor = flag.Duration("fill", 10*time.Minute, "longest time to fill it; what is there then is what is measured")
)

// judgedMB is the size of a store from which on the rate of seeding is judged:
// with less of it the beginning and the end take most of the time.
const judgedMB = 4000

// TestSeed has a replica of a pair that serves lose its disk and be seeded again,
// without a limit on the rate, beside a plain copy of the same files in the same
// run: one stream of mutual TLS, nothing in memory before, fsync at the end.
func TestSeed(t *testing.T) {
	peertest.Root(t, "emptying the page cache")
	c := cluster.Start(t, "--relays", "1", "--users", "20")
	pair := c.Info().Pairs[0]
	for _, n := range pair.Nodes {
		if n.Role == "data" {
			unlimited(t, c, n)
		}
	}
	giver := nodeOf(t, c)
	var lost cluster.Node
	for _, n := range pair.Nodes {
		if n.Role == "data" && n.Name != giver.Name {
			lost = n
		}
	}
	dir := filepath.Join(giver.Dir, pair.Name)
	var to []string
	for _, u := range c.Info().Users {
		to = append(to, u.Address)
	}
	addrs := func() []string { return []string{c.Info().Relays[0].SMTP} }
	begun := time.Now()
	during(t, cluster.NewLedger(), cluster.Load{Senders: 6, Addrs: addrs, Recipients: to, Size: 4 << 20}, func() {
		for size(t, dir) < int64(*storeMB)<<20 && time.Since(begun) < *fillFor {
			time.Sleep(200 * time.Millisecond)
		}
	})
	have := int(size(t, dir) >> 20)
	t.Logf("filled with %d MB in %v", have, time.Since(begun))
	if out, err := c.Postern("node", "stop", lost.Name, "--kill"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(lost.Dir, pair.Name)); err != nil {
		t.Fatal(err)
	}
	// The same load beside both.
	led := cluster.NewLedger()
	during(t, led, cluster.Load{Senders: 2, Addrs: addrs, Recipients: to, Size: 10 << 10, Pause: 20 * time.Millisecond}, func() {
		plain := plainCopy(t, dir, filepath.Join(lost.Dir, "plain"))
		at := time.Now()
		seeded := seed(t, c, giver, lost)
		ratio := seeded / plain
		t.Logf("store of %d MB: plain copy %.0f MB/s, seeding %.0f MB/s, ratio %.2f, with its vote %.1f s after the operator's command",
			have, plain, seeded, ratio, time.Since(at).Seconds())
		if have >= judgedMB && ratio < 0.7 {
			t.Errorf("seeding reaches %.2f of a plain copy, want 0.7", ratio)
		}
	})
	ok, refused, unknown := led.Counts()
	t.Logf("meanwhile %d messages acknowledged, %d refused, %d unknown, longest gap %v", ok, refused, unknown, led.LongestGap())
	if ok < 20 || refused+unknown > 0 {
		t.Error("the pair did not serve meanwhile")
	}
}

// unlimited restarts a node without a limit on the rate of seeding.
func unlimited(t *testing.T, c *cluster.Cluster, n cluster.Node) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Dir, "*.yaml"))
	if err != nil || len(files) != 1 {
		t.Fatalf("configuration of %s: %v, %v", n.Name, files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), "\nraft:\n", "\nraft:\n    seed_rate: \"0\"\n", 1)
	if text == string(data) {
		t.Fatalf("%s has no raft section", files[0])
	}
	if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"stop", "start"} {
		if out, err := c.Postern("node", step, n.Name); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	c.AwaitServing(pairOf(c, n), 20*time.Second)
}

func pairOf(c *cluster.Cluster, n cluster.Node) string {
	for _, p := range c.Info().Pairs {
		for _, m := range p.Nodes {
			if m.Name == n.Name {
				return p.Name
			}
		}
	}
	return ""
}

// during sends mail while f runs.
func during(t *testing.T, led *cluster.Ledger, load cluster.Load, f func()) {
	t.Helper()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { load.Run(led, stop); close(ended) }()
	defer func() { close(stop); <-ended }()
	f()
}

// size is how much the files of a replica hold, the frozen copy left out.
func size(t *testing.T, dir string) (n int64) {
	t.Helper()
	for _, f := range files(t, dir) {
		n += f.size
	}
	return n
}

type storeFile struct {
	name string
	size int64
}

// files lists what a replica is made of: log and rows. Files that vanish
// meanwhile are left out.
func files(t *testing.T, dir string) (list []storeFile) {
	t.Helper()
	for _, sub := range []string{"log", "meta"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(name, ".pre") {
				return nil //nolint:nilerr // gone, or being made
			}
			var st syscall.Stat_t
			if syscall.Stat(name, &st) == nil {
				list = append(list, storeFile{name, min(st.Size, st.Blocks*512)})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// emptyCache writes everything out and forgets what was read.
func emptyCache(t *testing.T) {
	t.Helper()
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		peertest.Lacks(t, "the page cache cannot be emptied: %v", err)
	}
}

// plainCopy copies the files of a replica through one TLS connection and returns
// the rate in MB/s.
func plainCopy(t *testing.T, from, to string) float64 {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(to)
	conf := mutual(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	list := files(t, from)
	emptyCache(t)
	begun := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept()
		if err == nil {
			err = receive(conn, to)
			conn.Close()
		}
		if err != nil {
			t.Error(err)
		}
	})
	conn, err := tls.Dial("tcp", l.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, f := range list {
		n, err := sendFile(conn, f)
		if err != nil {
			t.Error(err)
			break
		}
		total += n
	}
	conn.Close()
	wg.Wait()
	return float64(total) / 1e6 / time.Since(begun).Seconds()
}

// sendFile sends the length of a file and the file.
func sendFile(w io.Writer, f storeFile) (int64, error) {
	h, err := os.Open(f.name)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer h.Close()
	if err := binary.Write(w, binary.BigEndian, f.size); err != nil {
		return 0, err
	}
	return io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(h, f.size), make([]byte, 256<<10))
}

// receive writes files until the end and flushes them.
func receive(r io.Reader, to string) error {
	buf := make([]byte, 256<<10)
	for {
		var n int64
		if err := binary.Read(r, binary.BigEndian, &n); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		f, err := os.CreateTemp(to, "f")
		if err != nil {
			return err
		}
		if _, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(r, n), buf); err == nil {
			err = f.Sync()
		}
		f.Close()
		if err != nil {
			return err
		}
	}
}

// mutual is a TLS configuration of one certificate for both ends.
func mutual(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"copy"}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "copy", MinVersion: tls.VersionTLS13,
	}
}

// seed has the lost member made anew and returns the rate in MB/s, from the
// freezing of the copy to the end of its checks.
func seed(t *testing.T, c *cluster.Cluster, giver, lost cluster.Node) float64 {
	t.Helper()
	emptyCache(t)
	begun := time.Now()
	if out, err := c.Postern("node", "start", lost.Name); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var out string
	var err error
	for range 20 { // the node may still be starting
		if out, err = c.Postern("pair", "replace", lost.Name, lost.Name, "--yes", "--wait", "10m"); err == nil {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	frozen, line := logged(t, giver, `msg="copy frozen for a new member"`, begun)
	took, err := time.ParseDuration(value(line, "took"))
	if err != nil {
		t.Fatal(err)
	}
	complete, _ := logged(t, lost, `msg="member is complete"`, begun)
	return float64(number(t, value(line, "bytes"))) / 1e6 / complete.Sub(frozen.Add(-took)).Seconds()
}

// logged finds the last line of a node's log with some text, after a time.
func logged(t *testing.T, n cluster.Node, text string, after time.Time) (at time.Time, line string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(data)) {
		if strings.Contains(l, text) {
			line = l
		}
	}
	at, err = time.Parse(time.RFC3339Nano, value(line, "time"))
	if err != nil || at.Before(after.Add(-time.Second)) {
		t.Fatalf("log of %s has no %s: %v", n.Name, text, err)
	}
	return at, line
}

// value is that of a key in a line of a log.
func value(line, key string) string {
	_, rest, _ := strings.Cut(" "+line, " "+key+"=")
	v, _, _ := strings.Cut(rest, " ")
	return strings.TrimSpace(v)
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

package rotate

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/tlsconf"
)

const (
	life = 2 * time.Minute
	turn = 40 * time.Second // between two renewals
)

// TestShortLives: certificates that live two minutes, of every node, are renewed
// again and again under load for longer than that: nothing is lost, no session ends.
// One that is let expire is told of at once: by its node's log, status and figure,
// and by those that refuse it. Renewed, it is taken again, without a restart.
// It takes four minutes; POSTERN_LIVES=10m runs it longer.
func TestShortLives(t *testing.T) {
	if os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("SKIP: nightly")
	}
	length := life + turn/2
	if s := os.Getenv("POSTERN_LIVES"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	c := cluster.Start(t, "--relays", "2", "--pairs", "1", "--users", "6")
	b := begin(t, c, 20)
	b.ready(30 * time.Second)
	certs := drill.Certs{CA: filepath.Join(c.Dir, "ca"), Node: func(n string) string { return filepath.Join(c.Dir, n, "tls") }}
	renewals := 0
	for end := time.Now().Add(length); time.Now().Before(end); renewals++ {
		for _, n := range nodes {
			if err := certs.Renew(n, life); err != nil {
				t.Fatal(err)
			}
		}
		inUse(b, life)
		// New connections have to be made with them.
		b.must("node", "restart", "pair1-w")
		next := time.Now().Add(turn)
		b.ready(30 * time.Second)
		for time.Now().Before(next) && time.Now().Before(end) {
			b.flows(5)
		}
	}
	t.Logf("%d renewals of %d certificates in %v", renewals, len(nodes), length)
	for _, n := range nodes {
		if err := certs.Renew(n, 0); err != nil {
			t.Fatal(err)
		}
	}
	inUse(b, 24*time.Hour)

	expires(b, certs, "pair1-w")
	b.end()
}

// inUse waits until every node uses a certificate that ends at least so late,
// short of a moment.
func inUse(b *bench, left time.Duration) {
	b.t.Helper()
	within(b, "every node uses its new certificate", 30*time.Second, func() bool {
		all := decode[struct {
			Nodes []struct {
				Ends time.Time `json:"certificate_ends"`
			}
		}](b, "status").Nodes
		for _, n := range all {
			if time.Until(n.Ends) < left-30*time.Second {
				return false
			}
		}
		return len(all) == len(nodes)
	})
}

// expires lets the certificate of a node run out, and renews it.
func expires(b *bench, certs drill.Certs, node string) {
	b.t.Helper()
	if err := certs.Renew(node, drill.LastsFor); err != nil {
		b.t.Fatal(err)
	}
	ends := time.Now().Add(drill.LastsFor)
	log := filepath.Join(b.c.Dir, node, "log")
	within(b, "its log says that it has expired", drill.LastsFor+20*time.Second, func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), "certificate has expired")
	})
	if late := time.Since(ends); late > 6*time.Second {
		b.t.Errorf("it is logged %v after the end", late)
	}
	if left := expiry(b.t, b.c, node) - float64(time.Now().Unix()); left > 1 {
		b.t.Errorf("the figure says that it lives for %v s", left)
	}
	// Its admin port shows the certificate to whoever comes.
	asks := func() error {
		store, err := tlsconf.Load(tlsconf.Files{
			CertFile: filepath.Join(b.c.Dir, "admin", "admin.pem"), KeyFile: filepath.Join(b.c.Dir, "admin", "admin-key.pem"),
			CAFile: filepath.Join(b.c.Dir, "ca", "ca.pem"),
		})
		if err != nil {
			b.t.Fatal(err)
		}
		api := admin.NewTLSClient(adminPort(b.t, b.c, node), node, store)
		defer api.Close()
		_, err = admin.Call(b.t.Context(), api, admin.GetStatus, admin.None{})
		return err
	}
	if err := asks(); err == nil || !strings.Contains(err.Error(), "expired") {
		b.t.Errorf("who comes with an expired certificate is told %v", err)
	}
	b.flows(20) // the others are two of three
	if err := certs.Renew(node, 0); err != nil {
		b.t.Fatal(err)
	}
	within(b, "the renewed certificate is taken", 30*time.Second, func() bool { return asks() == nil })
	b.ready(30 * time.Second)
}

func within(b *bench, what string, d time.Duration, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not in %v: %s", d, what)
		}
	}
}

var expiryLine = regexp.MustCompile(`(?m)^postern_certificate_expiry_timestamp_seconds(?:\{[^}]*\})? (\S+)$`)

// expiry is what a node exports of its certificate's end.
func expiry(t *testing.T, c *cluster.Cluster, node string) float64 {
	t.Helper()
	addr := ""
	for _, p := range c.Info().Pairs {
		for _, n := range p.Nodes {
			if n.Name == node {
				addr = n.Metrics
			}
		}
	}
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := expiryLine.FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s exports no end of its certificate", node)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

package rotate

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/tlsconf"
)

var nodes = []string{"relay1", "relay2", "pair1-a", "pair1-b", "pair1-w"}

func cert(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	c, err := tlsconf.ReadCert(file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serials are those of the certificates of the nodes.
func serials(t *testing.T, c *cluster.Cluster) (out []string) {
	t.Helper()
	for _, n := range nodes {
		out = append(out, cert(t, filepath.Join(c.Dir, n, "tls", "node.pem")).SerialNumber.String())
	}
	return out
}

// TestRotate: CA and certificates of all nodes are replaced under load. It is cut
// off in the middle, by a node that cannot take its certificate, and goes on there.
// At the end nobody believes the old CA, nothing is lost and no session was broken.
func TestRotate(t *testing.T) {
	c := cluster.Start(t, "--relays", "2", "--pairs", "1", "--users", "6")
	b := begin(t, c, 40)
	b.ready(30 * time.Second)
	caDir := filepath.Join(c.Dir, "ca")
	oldCA := cert(t, filepath.Join(caDir, "ca.pem"))
	old := copyOperator(t, c)
	rotate := func(args ...string) error {
		t.Helper()
		_, err := c.Postern(append([]string{"pki", "rotate", "--ca-dir", caDir, "--timeout", "10s"}, args...)...)
		return err
	}
	begun := serials(t, c)

	b.must("node", "stop", "pair1-w")
	if err := rotate(); err == nil || !strings.Contains(err.Error(), "nothing is changed") {
		t.Errorf("with a node away: %v", err)
	}
	b.must("node", "start", "pair1-w")
	b.ready(30 * time.Second)

	// relay2 cannot write its new key.
	blocked := filepath.Join(c.Dir, "relay2", "tls", "node-key.pem.new")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := rotate(); err == nil || !strings.Contains(err.Error(), "relay2") || !strings.Contains(err.Error(), "go on by the same command") {
		t.Errorf("with a node that cannot take it: %v", err)
	}
	b.flows(20)
	half := serials(t, c)
	if half[0] == begun[0] || half[1] != begun[1] {
		t.Errorf("after the first run: %v, before it %v", half, begun)
	}
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	if err := rotate("--overlap"); err != nil {
		t.Fatal(err)
	}
	if now := serials(t, c); now[0] != half[0] || slices.Contains(now[1:], half[1]) || slices.Contains(now[2:], begun[2]) {
		t.Errorf("after the second run: %v, before it %v", now, half)
	}
	b.flows(20)
	if err := os.WriteFile(old.CAFile, slices.Concat(encode(oldCA), encode(cert(t, filepath.Join(caDir, "next", "ca.pem")))), 0o600); err != nil {
		t.Fatal(err)
	}
	asks := func(who tlsconf.Files) error {
		store, err := tlsconf.Load(who)
		if err != nil {
			t.Fatal(err)
		}
		api := admin.NewTLSClient(adminPort(t, c, "pair1-a"), "pair1-a", store)
		defer api.Close()
		_, err = admin.Call(t.Context(), api, admin.GetStatus, admin.None{})
		return err
	}
	if err := asks(old); err != nil {
		t.Errorf("while both are trusted, an operator of the old CA: %v", err)
	}
	if err := rotate(); err != nil {
		t.Fatal(err)
	}
	b.flows(20)
	newCA := cert(t, filepath.Join(caDir, "ca.pem"))
	if newCA.Equal(oldCA) {
		t.Fatal("the CA of the folder is the old one")
	}
	for _, n := range nodes {
		leaf, text := cert(t, filepath.Join(c.Dir, n, "tls", "node.pem")), filepath.Join(c.Dir, n, "tls", "ca.pem")
		if err := leaf.CheckSignatureFrom(newCA); err != nil {
			t.Errorf("%s: %v", n, err)
		}
		if data, err := os.ReadFile(text); err != nil || strings.Count(string(data), "BEGIN CERTIFICATE") != 1 || !cert(t, text).Equal(newCA) {
			t.Errorf("%s trusts others than the new CA: %v", n, err)
		}
	}
	if err := asks(old); err == nil {
		t.Error("an operator of the old CA is believed")
	}
	if err := asks(tlsconf.Files{CertFile: filepath.Join(c.Dir, "admin", "admin.pem"), KeyFile: filepath.Join(c.Dir, "admin", "admin-key.pem"), CAFile: filepath.Join(caDir, "ca.pem")}); err != nil {
		t.Errorf("the operator of the new CA: %v", err)
	}

	// What was changed is there after a restart, and new connections are made.
	b.must("node", "restart", "pair1-w")
	b.ready(30 * time.Second)
	b.seen("alive")
	done := serials(t, c)
	if err := rotate("--keep-ca", "--within", "1h"); err != nil || !slices.Equal(serials(t, c), done) {
		t.Errorf("nothing ends within an hour: %v", err)
	}
	if err := rotate("--keep-ca"); err != nil || slices.Equal(serials(t, c), done) {
		t.Errorf("with the CA that there is: %v", err)
	}
	b.flows(20)
	b.end()
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func adminPort(t *testing.T, c *cluster.Cluster, node string) string {
	t.Helper()
	for _, p := range c.Info().Pairs {
		for _, n := range p.Nodes {
			if n.Name == node {
				return n.AdminTLS
			}
		}
	}
	t.Fatalf("no node %s", node)
	return ""
}

// copyOperator keeps the operator's files as they are now; it trusts both CAs
// later, so that only the node's judgement counts.
func copyOperator(t *testing.T, c *cluster.Cluster) tlsconf.Files {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []string{"admin/admin.pem", "admin/admin-key.pem"} {
		data, err := os.ReadFile(filepath.Join(c.Dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tlsconf.Files{CertFile: filepath.Join(dir, "admin.pem"), KeyFile: filepath.Join(dir, "admin-key.pem"), CAFile: filepath.Join(dir, "both.pem")}
}

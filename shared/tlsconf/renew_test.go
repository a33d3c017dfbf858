package tlsconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// next makes the CA that replaces the one in dir.
func next(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := OpenNext(dir, "east", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func renew(t *testing.T, s *Store, ca *CA) error {
	t.Helper()
	req, err := s.Request()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(req, chainOf(s.current.Load().cert)[0], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s.Install(cert)
}

// TestRotation: two nodes go from one CA to the next in the order of pki rotate;
// at every step they talk to each other, also when a session is resumed, and at
// the end nobody believes the old CA.
func TestRotation(t *testing.T) {
	ca, dir := newCA(t, "east")
	trust := func(s *Store, cas ...*CA) {
		t.Helper()
		var text string
		for _, c := range cas {
			text += string(c.CertPEM())
		}
		if err := s.SetTrust([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	// Each has a CA file of its own.
	a, b, late := newStore(t, ca, copyOf(t, dir), "a", Backend), newStore(t, ca, copyOf(t, dir), "b", Backend), newStore(t, ca, dir, "c", Backend)
	server, client := a.Server(Backend), b.Client("a", Backend)
	lateClient := late.Client("a", Backend)
	talk := func(step string) {
		t.Helper()
		for range 2 { // the second one may be a session that is resumed
			if _, _, serr, cerr := dial(t, server, client); serr != nil || cerr != nil {
				t.Errorf("%s: %v, %v", step, serr, cerr)
			}
		}
	}
	talk("before")
	if _, _, serr, cerr := dial(t, server, lateClient); serr != nil || cerr != nil {
		t.Fatal(serr, cerr)
	}
	n := next(t, dir)
	if err := renew(t, a, n); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a certificate of a CA that is not trusted: %v", err)
	}
	if err := a.SetTrust(n.CertPEM()); err == nil {
		t.Error("took CAs that its own certificate is not of")
	}
	trust(a, ca, n)
	talk("a trusts both")
	trust(b, ca, n)
	for _, s := range []*Store{a, b} {
		key := s.Chain()[0]
		if err := renew(t, s, n); err != nil {
			t.Fatal(err)
		}
		talk(s.Identity().Node + " has its new certificate")
		if string(key) == string(s.Chain()[0]) || s.Identity().Node == "" || !s.Identity().Has(Backend) {
			t.Errorf("%+v", s.Identity())
		}
	}
	trust(a, n)
	talk("a trusts the new one")
	trust(b, n)
	talk("after")
	if _, _, serr, _ := dial(t, server, lateClient); serr == nil {
		t.Error("a certificate of the old CA is believed, as that of a resumed session")
	}
	if len(a.Trusted()) != 1 || !a.Trusted()[0].Equal(n.cert) {
		t.Errorf("trusts %v", a.Trusted())
	}

	if Promoting(dir) {
		t.Error("promoting before it began")
	}
	if err := Promote(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	now, err := OpenCA(dir)
	if err != nil || !now.cert.Equal(n.cert) {
		t.Errorf("the CA of the folder is another: %v", err)
	}
	kept, _ := filepath.Glob(filepath.Join(dir, "until-*"))
	if len(kept) != 1 {
		t.Fatalf("kept %v", kept)
	}
	if old, err := OpenCA(kept[0]); err != nil || !old.cert.Equal(ca.cert) {
		t.Errorf("the old CA is not kept: %v", err)
	}
	if err := Promote(dir, time.Now()); err != nil {
		t.Errorf("again: %v", err)
	}
}

// copyOf is a folder with the CA's certificate only, as a node has it.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, CACertName))
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := os.WriteFile(filepath.Join(to, CACertName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestCutOff: a process that is killed between the certificate and its key, or
// between key and certificate of the CA, leaves what the next one can use.
func TestCutOff(t *testing.T) {
	ca, dir := newCA(t, "east")
	s := newStore(t, ca, dir, "a", Backend)
	req, err := s.Request()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(req, chainOf(s.current.Load().cert)[0], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.files.CertFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Load(s.files)
	if err != nil {
		t.Fatal(err)
	}
	if string(again.Chain()[0]) == string(s.Chain()[0]) {
		t.Error("the old certificate is in use")
	}
	if _, err := os.Stat(s.files.KeyFile + pendingSuffix); err == nil {
		t.Error("the key is not in its place")
	}
	if _, err := Load(s.files); err != nil {
		t.Error(err)
	}
	if err := s.Install(cert); err == nil || !strings.Contains(err.Error(), "asked for") {
		t.Errorf("without a request: %v", err)
	}

	n := next(t, dir)
	key, err := os.ReadFile(filepath.Join(dir, nextDir, CAKeyName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, CAKeyName), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if !Promoting(dir) {
		t.Fatal("not seen")
	}
	if err := Promote(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	if now, err := OpenCA(dir); err != nil || !now.cert.Equal(n.cert) {
		t.Errorf("the CA of the folder is another: %v", err)
	}
}

// TestInstallRefuses what is not for this node, and leaves the old one in use.
func TestInstallRefuses(t *testing.T) {
	ca, dir := newCA(t, "east")
	a, b := newStore(t, ca, dir, "a", Backend), newStore(t, ca, dir, "b", Backend)
	other, _ := newCA(t, "west")
	reqA, err := a.Request()
	if err != nil {
		t.Fatal(err)
	}
	reqB, err := b.Request()
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(s *Store) string { return string(s.Chain()[0]) }
	before := leaf(a)
	sign := func(ca *CA, req []byte, like *Store) []byte {
		cert, err := ca.Sign(req, chainOf(like.current.Load().cert)[0], time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for name, pem := range map[string][]byte{
		"another key":  sign(ca, reqB, a),
		"another node": sign(ca, reqA, b),
		"another CA":   sign(other, reqA, a),
		"nothing":      nil,
		"no PEM":       []byte("x"),
	} {
		if err := a.Install(pem); err == nil || leaf(a) != before {
			t.Errorf("%s: taken, or in use: %v", name, err)
		}
	}
	if _, err := ca.Sign([]byte("x"), chainOf(a.current.Load().cert)[0], time.Now()); err == nil {
		t.Error("signed what is no request")
	}
	for name, pem := range map[string]string{"of another cluster": string(ca.CertPEM()) + string(other.CertPEM()), "a leaf": string(sign(ca, reqA, a)), "none": "x"} {
		if err := a.SetTrust([]byte(pem)); err == nil {
			t.Errorf("CAs %s: taken", name)
		}
	}
	if err := a.Install(sign(ca, reqA, a)); err != nil || leaf(a) == before {
		t.Errorf("the right one: %v", err)
	}
}

func FuzzCAs(f *testing.F) {
	dir := f.TempDir()
	ca, err := InitCA(dir, "east", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.CertPEM())
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if cas, err := parseCAs(text); err == nil && len(cas) == 0 {
			t.Error("neither CAs nor an error")
		}
	})
}

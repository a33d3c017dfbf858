package milter

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
	"github.com/postern-mail/postern/shared/peertest"
)

// freePort is a port of 127.0.0.1 that nobody has.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// run starts a program that ends with the test and awaits its port.
func run(t testing.TB, port, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its children as well
		cmd.Wait()
	})
	awaitPort(t, "tcp", "127.0.0.1:"+port)
}

func writeFile(t testing.TB, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// openDKIM starts one opendkim that signs everything of whoever logged in, to the
// last space, and one that verifies.
func openDKIM(t testing.TB) (signer, verifier *Filter) {
	program := peertest.Programs(t, "opendkim")[0]
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string { return writeFile(t, filepath.Join(dir, name), text) }
	keyFile := file("key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	keys := file("keys", "k example.com:s1:"+keyFile+"\n")
	signing := file("signing", "* k\n")
	records := file("records", "s1._domainkey.example.com v=DKIM1; k=rsa; p="+base64.StdEncoding.EncodeToString(public)+"\n")
	start := func(name, mode string, more ...string) *Filter {
		port := freePort(t)
		text := strings.Join(append([]string{
			"Mode " + mode, "Socket inet:" + port + "@127.0.0.1", "AuthservID mx.test", "Syslog no", "RequireSafeKeys no", "UserID root",
			"PidFile " + filepath.Join(dir, name+".pid"), "InternalHosts 192.0.2.99", "ExternalIgnoreList 192.0.2.99",
		}, more...), "\n") + "\n"
		run(t, port, program, "-f", "-x", file(name, text))
		return newFilter(t, Config{Name: name, Address: "inet:127.0.0.1:" + port})
	}
	return start("signer", "s", "KeyTable "+keys, "SigningTable refile:"+signing, "Canonicalization simple/simple", "OmitHeaders Return-Path"),
		start("verifier", "v", "TestPublicKeys "+records, "AlwaysAddARHeader yes")
}

// pass has a filter look at a message of a user and returns the message that
// results.
func pass(t testing.TB, f *Filter, user string, msg []byte) []byte {
	t.Helper()
	c := client()
	c.AuthUser = user
	v, _ := policy.Judge(t.Context(), f, c, &policy.Mail{From: addr("ann@example.com"), QueueID: "4F7A21"},
		[]mail.Address{addr("eva@client.test")}, [][]byte{msg})
	if v.Reply != nil || v.Discard || v.Hold != "" {
		t.Fatalf("%s: %s", f.Name(), word(v))
	}
	if v.Message == nil {
		return msg
	}
	return v.Message
}

// results are the values of a field.
func results(msg []byte, name string) (all []string) {
	for f := range message.Fields(msg[:message.HeaderLen(msg)]) {
		if strings.EqualFold(string(f.Name), name) {
			all = append(all, string(message.Unfold(f.Body)))
		}
	}
	return all
}

// TestOpenDKIM: what is signed by way of the protocol verifies, and what was written
// into the message by others does not stay.
func TestOpenDKIM(t *testing.T) {
	signer, verifier := openDKIM(t)
	const forged = "Authentication-Results: mx.test; dkim=pass header.d=example.com\r\n"
	check := func(t *testing.T, msg []byte) {
		t.Helper()
		signed := pass(t, signer, "ann", msg)
		if len(signed) <= len(msg) || !bytes.HasPrefix(signed, []byte("DKIM-Signature: ")) || !bytes.HasSuffix(signed, msg) {
			t.Fatalf("not signed at the top:\n%.2000s", signed)
		}
		verified := pass(t, verifier, "", signed)
		ar := results(verified, "Authentication-Results")
		if len(ar) != 1 || !strings.HasPrefix(ar[0], "mx.test") || !strings.Contains(ar[0], "dkim=pass") || !bytes.HasSuffix(verified, signed) {
			t.Fatalf("%q:\n%.2000s", ar, verified)
		}
	}
	const head = "From: Ann <ann@example.com>\r\nSubject: one\r\n\ttwo \r\nX-A:no space\r\nX-B:\ttab\r\nX-C:   three  \r\nX-D:\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
	for name, msg := range map[string]string{
		"usual":      head + "\r\nbody \r\n\r\n.\r\n\r\n\r\n",
		"8 bits":     head + "\r\nGr\xc3\xbc\xc3\x9fe\r\n",
		"large":      head + "\r\n" + strings.Repeat("A line of a body.\r\n", 20000),
		"empty body": head + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			check(t, []byte(msg))
		})
	}
	t.Run("changed afterwards", func(t *testing.T) {
		signed := pass(t, signer, "ann", []byte(head+"\r\nbody\r\n"))
		verified := pass(t, verifier, "", bytes.Replace(signed, []byte("Subject: one"), []byte("Subject:  one"), 1))
		if ar := results(verified, "Authentication-Results"); len(ar) != 1 || !strings.Contains(ar[0], "dkim=fail") {
			t.Errorf("%q", ar)
		}
	})
	t.Run("forged", func(t *testing.T) {
		verified := pass(t, verifier, "", []byte(head+forged+"X-E: e\r\n"+forged+"\r\nbody\r\n"))
		if ar := results(verified, "Authentication-Results"); len(ar) != 1 || strings.Contains(ar[0], "pass") {
			t.Errorf("%q", ar)
		}
		if _, rest, _ := bytes.Cut(verified, []byte("From:")); "From:"+string(rest) != head+"X-E: e\r\n\r\nbody\r\n" {
			t.Errorf("what was not forged is now\n%s", verified)
		}
	})
	t.Run("not logged in", func(t *testing.T) {
		if msg := []byte(head + "\r\nbody\r\n"); !bytes.Equal(pass(t, signer, "", msg), msg) {
			t.Error("signed for a stranger")
		}
	})
	t.Run("corpus", func(t *testing.T) {
		files, n := peertest.Corpus(t, 200), 0
		for i := 0; i < len(files); i += max(1, len(files)/200) {
			raw, err := os.ReadFile(files[i])
			if err != nil {
				t.Fatal(err)
			}
			msg := []byte(strings.ReplaceAll(lines.Replace(string(raw)), "\n", "\r\n"))
			p := split(msg)
			named := func(name string) int {
				n := 0
				for _, f := range p.fields {
					if strings.EqualFold(string(f.name), name) {
						n++
					}
				}
				return n
			}
			// opendkim wants a header as it has to be, and what has been signed
			// or verified before is another matter.
			if !p.empty || named("From") != 1 || named("Date") != 1 || named("Sender") > 1 || named("Reply-To") > 1 || named("To") > 1 || named("Cc") > 1 ||
				named("Message-ID") > 1 || named("Subject") > 1 || named("In-Reply-To") > 1 || named("References") > 1 ||
				named("DKIM-Signature")+named("Authentication-Results") > 0 || slices.ContainsFunc(p.fields, func(f field) bool { return len(f.raw) > 8000 }) {
				continue
			}
			t.Run(filepath.Base(files[i]), func(t *testing.T) { check(t, msg) })
			n++
		}
		if n < 50 {
			t.Errorf("only %d messages", n)
		}
		t.Logf("%d messages signed and verified", n)
	})
}

package mailbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/shared/tlsconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ann = User{"ann", "secret", "ann@example.org"}

const size = 400

// server is an IMAP server in memory with one user.
type server struct {
	box   *imapmemserver.User
	mu    sync.Mutex
	conns []net.Conn
}

func newServer(t *testing.T) (*server, *Access) {
	t.Helper()
	s := &server{box: imapmemserver.NewUser(ann.Login, ann.Password)}
	if err := s.box.Create("INBOX", nil); err != nil {
		t.Fatal(err)
	}
	mem := imapmemserver.New()
	mem.AddUser(s.box)
	dir, now := t.TempDir(), time.Now()
	ca, err := tlsconf.InitCA(filepath.Join(dir, "ca"), "test", now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(filepath.Join(dir, "imap"), tlsconf.Request{Node: "localhost", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, now); err != nil {
		t.Fatal(err)
	}
	pub, err := tlsconf.LoadPublic(filepath.Join(dir, "imap.pem"), filepath.Join(dir, "imap-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return mem.NewSession(), nil, nil
		},
		Caps: imap.CapSet{imap.CapIMAP4rev1: {}, imap.CapIMAP4rev2: {}}, Logger: slog.NewLogLogger(slog.DiscardHandler, 0), InsecureAuth: true,
	})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(tls.NewListener(l, pub.Server(nil))) }()
	t.Cleanup(func() { srv.Close(); <-done })
	a := &Access{
		Doors: []ledger.Door{{Name: "dead", Addr: "127.0.0.1:1"}, {Name: "relay1", Addr: l.Addr().String()}},
		TLS:   &tls.Config{RootCAs: roots}, Timeout: 10 * time.Second,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err == nil {
				s.mu.Lock()
				s.conns = append(s.conns, c)
				s.mu.Unlock()
			}
			return c, err
		},
	}
	return s, a
}

// cut breaks every connection.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

type literal struct{ *bytes.Reader }

func (l literal) Size() int64 { return l.Reader.Size() }

// put delivers message id; body "" is the one that the ledger makes.
func (s *server) put(t *testing.T, id, body string) {
	t.Helper()
	if body == "" {
		body = string(ledger.Body(id, size))
	}
	text := fmt.Sprintf("From: a@example.org\r\nMessage-ID: <%s>\r\n\r\n%s", id, body)
	if _, err := s.box.Append("INBOX", literal{bytes.NewReader([]byte(text))}, &imap.AppendOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestRead reads what came after the mark, by a door that is not the first.
func TestRead(t *testing.T) {
	s, a := newServer(t)
	s.put(t, "run1.old@drill.test", "")
	m, err := a.Mark(t.Context(), ann)
	if err != nil {
		t.Fatal(err)
	}
	in, err := a.Read(t.Context(), ann, m, "run1", size)
	if err != nil || len(in.Copies) != 0 || len(in.Faults) != 0 {
		t.Fatalf("nothing is new: %+v, %v", in, err)
	}
	s.put(t, "run1.1@drill.test", "")
	s.put(t, "run1.2@drill.test", "")
	s.put(t, "run1.2@drill.test", "")
	s.put(t, "run11.3@drill.test", "")
	s.put(t, "other@example.org", "")
	in, err = a.Read(t.Context(), ann, m, "run1", size)
	want := map[string]int{"run1.1@drill.test": 1, "run1.2@drill.test": 2}
	if err != nil || !reflect.DeepEqual(in.Copies, want) || len(in.Faults) != 0 {
		t.Errorf("%+v, %v, want %v", in, err, want)
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		body string
		mark func(m Mark) Mark
		want string
	}{
		{"a text that is cut", "half", func(m Mark) Mark { return m }, "the text of UID 1 (run.1@drill.test) is not what was sent: 4 octets"},
		{"another UIDVALIDITY", "", func(m Mark) Mark { return Mark{m.UIDNext, m.Validity + 1} }, "UIDVALIDITY was"},
		{"UIDNEXT went back", "", func(m Mark) Mark { return Mark{m.UIDNext + 50, m.Validity} }, "UIDNEXT was 51 and is 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, a := newServer(t)
			m, err := a.Mark(t.Context(), ann)
			if err != nil {
				t.Fatal(err)
			}
			s.put(t, "run.1@drill.test", c.body)
			in, err := a.Read(t.Context(), ann, c.mark(m), "run", size)
			if err != nil || !slices.ContainsFunc(in.Faults, func(f string) bool { return strings.Contains(f, c.want) }) {
				t.Errorf("%+v, %v, want %s", in, err, c.want)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	s, a := newServer(t)
	m, err := a.Mark(t.Context(), ann)
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, "run.1@drill.test", "")
	s.put(t, "run.2@drill.test", "")
	if err := a.Remove(t.Context(), ann, "run.1@drill.test"); err != nil {
		t.Fatal(err)
	}
	in, err := a.Read(t.Context(), ann, m, "run", size)
	if err != nil || !reflect.DeepEqual(in.Copies, map[string]int{"run.2@drill.test": 1}) {
		t.Errorf("%+v, %v", in, err)
	}
	if err := a.Remove(t.Context(), ann, "run.9@drill.test"); err == nil || !strings.Contains(err.Error(), "not in the inbox") {
		t.Errorf("%v", err)
	}
}

func TestNoLogin(t *testing.T) {
	_, a := newServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := a.Mark(ctx, User{Login: "ann", Password: "wrong"})
	if err == nil {
		t.Error("a wrong password opens a mailbox")
	}
}

// TestProber breaks the session of a user at work: it goes on with another one.
func TestProber(t *testing.T) {
	s, a := newServer(t)
	p := &Prober{Access: a, User: ann, Every: time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	await := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			answers, _, last, _ := p.Answers()
			if len(answers) >= n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d answers, want %d; %s", len(answers), n, last)
			}
		}
	}
	await(20)
	before, _, _, _ := p.Answers()
	s.cut()
	await(len(before) + 20)
	cancel()
	<-done
	answers, errs, last, faults := p.Answers()
	if len(errs) == 0 || last == "" || len(faults) != 0 {
		t.Errorf("%d answers, errors %v %q, faults %v", len(answers), errs, last, faults)
	}
	if !slices.IsSortedFunc(answers, time.Time.Compare) {
		t.Error("answers are not in order")
	}
}

func TestCompare(t *testing.T) {
	p := &Prober{User: ann}
	for _, m := range []Mark{{5, 1}, {5, 1}, {6, 1}, {4, 1}, {5, 2}} {
		p.compare(m)
	}
	_, _, _, faults := p.Answers()
	want := []string{"ann: UIDNEXT 4 after 6, UIDVALIDITY 1 after 1", "ann: UIDNEXT 5 after 4, UIDVALIDITY 2 after 1"}
	if !slices.Equal(faults, want) {
		t.Errorf("%q, want %q", faults, want)
	}
}

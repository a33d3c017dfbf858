package drill

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/textproto"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// fakeTarget is a cluster in this process: a relay that keeps mail in the
// mailboxes of an IMAP server in memory, and three nodes that only say how they
// are. Its fields make it lie.
type fakeTarget struct {
	nodes []Node
	users []User
	tls   *tls.Config

	boxes map[string]*imapmemserver.User

	mu       sync.Mutex
	done     []Action
	away     map[string]bool // nodes that do not answer
	serving  string
	accepted int

	unreal  bool          // faults are not there
	losing  bool          // the tenth message is acknowledged and lost
	doubles bool          // the tenth message is kept twice
	keeping bool          // the tenth message is refused and kept
	sluggy  time.Duration // the time of the tenth message
	differ  bool          // replicas have different digests
	stuck   bool          // the queue never empties
	nothing bool          // no message is accepted
}

const fakeUsers = 3

func newFakeTarget(t *testing.T) *fakeTarget {
	t.Helper()
	f := &fakeTarget{boxes: map[string]*imapmemserver.User{}, away: map[string]bool{}, serving: "pair1-a"}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	dir := t.TempDir()
	imapAddr := f.serveIMAP(t, dir, &wg)
	for _, n := range []Node{
		{Name: "relay1", Role: RoleRelay},
		{Name: "pair1-a", Role: RoleData, Pair: "pair1"},
		{Name: "pair1-b", Role: RoleData, Pair: "pair1"},
		{Name: "pair1-w", Role: RoleWitness, Pair: "pair1"},
	} {
		n.Admin = admin.NewUnixClient(f.serveAdmin(ctx, t, dir, n.Name, n.Role, &wg))
		t.Cleanup(n.Admin.Close)
		if n.Role == RoleRelay {
			n.SMTP, n.IMAPS = f.serveSMTP(t, &wg), imapAddr
		}
		f.nodes = append(f.nodes, n)
	}
	return f
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (f *fakeTarget) serveIMAP(t *testing.T, dir string, wg *sync.WaitGroup) string {
	t.Helper()
	mem := imapmemserver.New()
	for i := range fakeUsers {
		u := User{Login: fmt.Sprintf("u%d", i), Password: "p", Address: fmt.Sprintf("u%d@example.org", i), Pair: "pair1"}
		box := imapmemserver.NewUser(u.Login, u.Password)
		if err := box.Create("INBOX", nil); err != nil {
			t.Fatal(err)
		}
		mem.AddUser(box)
		f.boxes[u.Address] = box
		f.users = append(f.users, u)
	}
	now := time.Now()
	ca, err := tlsconf.InitCA(filepath.Join(dir, "ca"), "fake", now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(filepath.Join(dir, "imap"), tlsconf.Request{Node: "localhost", DNSNames: []string{"localhost"}}, now); err != nil {
		t.Fatal(err)
	}
	pub, err := tlsconf.LoadPublic(filepath.Join(dir, "imap.pem"), filepath.Join(dir, "imap-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	f.tls = &tls.Config{RootCAs: roots, ServerName: "localhost"}
	s := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return mem.NewSession(), nil, nil
		},
		Caps: imap.CapSet{imap.CapIMAP4rev1: {}, imap.CapIMAP4rev2: {}}, Logger: slog.NewLogLogger(slog.DiscardHandler, 0), InsecureAuth: true,
	})
	l := listen(t)
	wg.Go(func() { _ = s.Serve(tls.NewListener(l, pub.Server(nil))) })
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

func (f *fakeTarget) serveSMTP(t *testing.T, wg *sync.WaitGroup) string {
	t.Helper()
	l := listen(t)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.smtp(c)
		}
	})
	return l.Addr().String()
}

func (f *fakeTarget) smtp(c net.Conn) {
	defer c.Close()
	r := textproto.NewReader(bufio.NewReader(c))
	fmt.Fprint(c, "220 fake\r\n")
	rcpt := ""
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		answer := "250 OK"
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "RCPT":
			rcpt = strings.TrimSuffix(strings.TrimPrefix(line, "RCPT TO:<"), ">")
		case "DATA":
			fmt.Fprint(c, "354 go on\r\n")
			text, err := r.ReadDotBytes()
			if err != nil {
				return
			}
			answer = f.accept(rcpt, bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")))
		}
		fmt.Fprintf(c, "%s\r\n", answer)
	}
}

// accept keeps a message, or does wrong.
func (f *fakeTarget) accept(rcpt string, text []byte) string {
	f.mu.Lock()
	f.accepted++
	tenth := f.accepted == 10
	f.mu.Unlock()
	if f.nothing {
		return "451 nothing today"
	}
	copies := 1
	if tenth {
		time.Sleep(f.sluggy)
		if f.losing {
			copies = 0
		}
		if f.doubles {
			copies = 2
		}
	}
	for range copies {
		if _, err := f.boxes[rcpt].Append("INBOX", reader{bytes.NewReader(text)}, &imap.AppendOptions{}); err != nil {
			return "451 " + err.Error()
		}
	}
	if tenth && f.keeping {
		return "451 or so I say"
	}
	return "250 OK"
}

type reader struct{ *bytes.Reader }

func (r reader) Size() int64 { return r.Reader.Size() }

func (f *fakeTarget) serveAdmin(ctx context.Context, t *testing.T, dir, name, role string, wg *sync.WaitGroup) string {
	t.Helper()
	s := admin.NewServer(slog.New(slog.DiscardHandler))
	admin.Handle(s, admin.GetStatus, func(ctx context.Context, _ admin.None) (admin.NodeStatus, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.away[name] {
			return admin.NodeStatus{}, errors.New("away")
		}
		st := admin.NodeStatus{Name: name, State: "ready"}
		if role == RoleRelay {
			st.Queue = &admin.QueueStatus{}
			return st, nil
		}
		st.Groups = []admin.GroupStatus{{Pair: "pair1", Node: name, Serving: name == f.serving, Term: 1, Applied: 5}}
		return st, nil
	})
	admin.Handle(s, admin.QueueList, func(_ context.Context, in admin.QueueQuery) (l admin.QueueListing, _ error) {
		if f.stuck && in.Address == "load@drill.test" {
			l.Messages = append(l.Messages, admin.QueueMessage{ID: "x"})
		}
		return l, nil
	})
	admin.Handle(s, admin.PairDigest, func(context.Context, admin.PairName) (admin.Digest, error) {
		d := admin.Digest{Pair: "pair1", Node: name, Applied: 5, Digest: "same"}
		if f.differ {
			d.Digest = name
		}
		return d, nil
	})
	path := filepath.Join(dir, name+".sock")
	l, err := admin.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = s.Serve(ctx, l) })
	return path
}

func (f *fakeTarget) Title() string    { return "fake" }
func (f *fakeTarget) Nodes() []Node    { return f.nodes }
func (f *fakeTarget) Users() []User    { return f.users }
func (f *fakeTarget) TLS() *tls.Config { return f.tls }
func (f *fakeTarget) Can(k Kind) error {
	if k == Cut {
		return errors.New("no cuts here")
	}
	return nil
}

func (f *fakeTarget) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func (f *fakeTarget) Do(_ context.Context, a Action) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, a)
	switch {
	case a.Kind == Kill && !f.unreal:
		f.away[a.Node] = true
		if f.serving == a.Node {
			f.serving = "pair1-b"
		}
	case a.Kind == Start:
		delete(f.away, a.Node)
	}
	return nil
}

func (f *fakeTarget) Real(_ context.Context, a Action) (string, error) {
	if f.unreal {
		return "", errors.New("nothing happened")
	}
	return "it is gone", nil
}

// kinds are those of the actions done.
func (f *fakeTarget) kinds() (kinds []Kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.done {
		kinds = append(kinds, a.Kind)
	}
	return slices.Clip(kinds)
}

var _ Target = (*fakeTarget)(nil)

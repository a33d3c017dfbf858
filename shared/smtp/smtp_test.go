package smtp

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a back end that takes everything, except what the names of the
// addresses tell it to refuse, and remembers it.
type sink struct {
	mu       sync.Mutex
	messages []received
	calls    []string
	data     func(m *Message) []*Reply
}

type received struct {
	from  MailArgs
	rcpts []RcptArgs
	body  string
	eight bool
	user  string
}

func (s *sink) newSession(ctx context.Context, c *ConnInfo) (Session, error) {
	return &sinkSession{sink: s, info: c}, nil
}

func (s *sink) got() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.messages...)
}

// seen lists the calls of the engine so far.
func (s *sink) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

func (s *sink) log(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
}

type sinkSession struct {
	sink *sink
	info *ConnInfo
	cur  received
}

func (s *sinkSession) Hello(ctx context.Context, c *ConnInfo) error {
	s.sink.log("Hello %s", c.Helo)
	if c.Helo == "refused.example" {
		return &Reply{Code: 550, Status: mail.StatusRefused, Text: "Not you"}
	}
	return nil
}

func (s *sinkSession) Auth(ctx context.Context, mech, authz, user, password string) (string, error) {
	s.sink.log("Auth %s %q %q %q", mech, authz, user, password)
	if mech == "EXTERNAL" {
		return "cert:" + authz, nil
	}
	if password != "secret" {
		return "", &mail.Error{Op: "auth", Code: 535, Status: mail.Status{5, 7, 8}, Reply: "Authentication credentials invalid"}
	}
	return user, nil
}

func (s *sinkSession) Mail(ctx context.Context, m *MailArgs) error {
	s.sink.log("Mail %s", m.From.Path())
	if m.From.Local == "refused" {
		return &mail.Error{Op: "mail", Status: mail.StatusRefused, Reply: "Not you"}
	}
	s.cur = received{from: *m, user: s.info.AuthUser}
	return nil
}

func (s *sinkSession) Rcpt(ctx context.Context, r *RcptArgs) error {
	s.sink.log("Rcpt %s", r.To.Path())
	switch {
	case strings.HasPrefix(r.To.Local, "unknown"):
		return &mail.Error{Op: "rcpt", Status: mail.StatusBadMailbox, Reply: "No such user"}
	case strings.HasPrefix(r.To.Local, "later"):
		return fmt.Errorf("a cause that the peer must not see")
	case r.To.Local == "gone":
		return &Reply{Code: 421, Status: mail.StatusShuttingDown, Text: "Bye"}
	}
	s.cur.rcpts = append(s.cur.rcpts, *r)
	return nil
}

func (s *sinkSession) Data(ctx context.Context, m *Message) []*Reply {
	s.sink.log("Data %d", len(m.Bytes))
	if s.sink.data != nil {
		return s.sink.data(m)
	}
	s.cur.body, s.cur.eight = string(m.Bytes), m.EightBit
	s.sink.mu.Lock()
	s.sink.messages = append(s.sink.messages, s.cur)
	s.sink.mu.Unlock()
	var replies []*Reply
	for _, r := range s.cur.rcpts {
		switch {
		case strings.HasPrefix(r.To.Local, "full"):
			replies = append(replies, &Reply{Code: 452, Status: mail.StatusOverQuota, Text: "Mailbox full"})
		case strings.HasPrefix(r.To.Local, "silent"):
			replies = append(replies, nil)
		default:
			replies = append(replies, &Reply{Code: 250, Status: mail.StatusDelivered, Text: "Delivered"})
		}
	}
	return replies
}

func (s *sinkSession) Reset() { s.sink.log("Reset") }
func (s *sinkSession) Close() { s.sink.log("Close") }

// testConfig is a server on s, changed by opts.
func testConfig(s *sink, opts ...func(*ServerConfig)) ServerConfig {
	cfg := ServerConfig{Hostname: "mx.example.com", NewSession: s.newSession}
	for _, o := range opts {
		o(&cfg)
	}
	return cfg
}

func newTestServer(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	srv, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// listen serves cfg on a loopback port until the test ends.
func listen(t testing.TB, cfg ServerConfig) (addr string, srv *Server) {
	t.Helper()
	srv = newTestServer(t, cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String(), srv
}

// dialTest connects our client to addr.
func dialTest(t testing.TB, addr string, cfg ClientConfig) *Client {
	t.Helper()
	if cfg.Hello == "" {
		cfg.Hello = "client.example.net"
	}
	c, err := Dial(context.Background(), addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func addr(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s, true)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return a
}

// transactionTo is a transaction from ann@example.net.
func transactionTo(t testing.TB, body string, rcpts ...string) *Transaction {
	t.Helper()
	tr := &Transaction{Mail: MailArgs{From: addr(t, "ann@example.net")}, Body: [][]byte{[]byte(body)}}
	for _, r := range rcpts {
		tr.Rcpts = append(tr.Rcpts, RcptArgs{To: addr(t, r)})
	}
	return tr
}

func TestSendReceive(t *testing.T) {
	body := "Subject: x\r\n\r\n.dot\r\n..\r\nline\r\n.\r\n"
	big := strings.Repeat(body+strings.Repeat("0123456789", 7)+"\r\n", 20000)
	for _, proto := range []Protocol{SMTP, LMTP} {
		for _, bdat := range []bool{false, true} {
			for name, body := range map[string]string{"small": body, "empty": "", "big": big} {
				t.Run(fmt.Sprintf("%v/%v/%s", proto, bdat, name), func(t *testing.T) {
					s := &sink{}
					a, _ := listen(t, testConfig(s, func(c *ServerConfig) { c.Protocol = proto }))
					c := dialTest(t, a, ClientConfig{Protocol: proto})
					for range 3 {
						tr := transactionTo(t, body, "bob@example.com", "unknown@example.com", "full@example.com")
						// Any cut of the body into segments gives the same message.
						tr.Body = nil
						for rest := []byte(body); len(rest) > 0; {
							n := min(len(rest), 1+len(rest)/3)
							tr.Body = append(tr.Body, rest[:n])
							rest = rest[n:]
						}
						tr.UseBDAT = bdat
						res, err := c.Send(context.Background(), tr)
						if err != nil {
							t.Fatal(err)
						}
						want := "250 550 452"
						if proto == SMTP {
							want = "250 550 250"
						}
						if got := finals(res); got != want {
							t.Fatalf("replies %s, want %s", got, want)
						}
						if !res.Sent || !c.Usable() {
							t.Errorf("Sent %v, Usable %v", res.Sent, c.Usable())
						}
					}
					for i, m := range s.got() {
						if m.body != body {
							t.Errorf("message %d: %d octets, want %d: %.80q", i, len(m.body), len(body), m.body)
						}
					}
					if len(s.got()) != 3 {
						t.Errorf("%d messages", len(s.got()))
					}
				})
			}
		}
	}
}

func finals(res *Result) string {
	var codes []string
	for i := range res.Rcpts {
		code := "nil"
		if r := res.Final(i); r != nil {
			code = fmt.Sprint(r.Code)
		}
		codes = append(codes, code)
	}
	return strings.Join(codes, " ")
}

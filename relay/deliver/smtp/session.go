package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"golang.org/x/net/idna"

	"github.com/postern-mail/postern/shared/smtp"
)

var idnaProfile = idna.New(idna.MapForLookup(), idna.StrictDomainName(false), idna.BidiRule())

// session is one connection to an exchanger.
type session struct {
	a      *Agent
	cfg    *Config // that it was opened by
	domain string
	peer   target
	conn   *timedConn
	c      *gosmtp.Client
	fresh  bool // not used yet
	uses   int
	timer  *time.Timer // while it is kept
}

// errTLS says that a handshake failed.
var errTLS = errors.New("TLS handshake failed")

// connect opens a session with one address, with TLS where it is offered.
func (a *Agent) connect(ctx context.Context, cfg *Config, domain string, peer target) (*session, error) {
	s, err := a.open(ctx, cfg, domain, peer, true)
	if errors.Is(err, errTLS) && !cfg.RequireTLS && ctx.Err() == nil {
		return a.open(ctx, cfg, domain, peer, false)
	}
	return s, err
}

func (a *Agent) open(ctx context.Context, cfg *Config, domain string, peer target, useTLS bool) (*session, error) {
	dialCtx, cancel := context.WithTimeout(ctx, cfg.Connect)
	raw, err := cfg.Dial(dialCtx, "tcp", peer.addr)
	cancel()
	if err != nil {
		return nil, err
	}
	if ip, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		if local, ok := raw.LocalAddr().(*net.TCPAddr); ok && ip.Port == local.Port && ip.IP.Equal(local.IP) {
			raw.Close()
			return nil, errors.New("connected to itself")
		}
	}
	conn := &timedConn{Conn: raw, block: cfg.DataBlock}
	s := &session{a: a, cfg: cfg, domain: domain, peer: peer, conn: conn, fresh: true}
	stop := conn.follow(ctx)
	defer stop()
	if err := s.greet(ctx, useTLS); err != nil {
		raw.Close()
		return nil, err
	}
	return s, nil
}

// greet reads the banner, says EHLO and starts TLS where that is offered.
func (s *session) greet(ctx context.Context, useTLS bool) error {
	_ = s.conn.SetDeadline(time.Now().Add(s.cfg.Command))
	r := bufio.NewReaderSize(io.LimitReader(s.conn, maxGreeting), 4096)
	banner, err := readReply(r)
	if err != nil {
		return err
	}
	if banner.Code != 220 {
		return banner
	}
	offered := false
	reply, err := s.say(r, "EHLO "+s.cfg.Hello)
	if err != nil {
		return err
	}
	if reply.Code == 250 {
		for line := range strings.SplitSeq(reply.Text, "\n") {
			offered = offered || strings.EqualFold(strings.TrimSpace(line), "STARTTLS")
		}
	} else if reply.Code == 421 {
		return reply
	}
	if offered && useTLS {
		if reply, err = s.say(r, "STARTTLS"); err != nil {
			return err
		}
		if reply.Code == 220 {
			if err := s.handshake(ctx, r); err != nil {
				return err
			}
		} else if s.cfg.RequireTLS {
			return reply
		}
	} else if s.cfg.RequireTLS {
		return &smtp.Reply{Code: 450, Status: [3]int{4, 7, 4}, Text: "TLS required and not offered"}
	}
	if r.Buffered() > 0 {
		return errors.New("peer speaks out of turn")
	}
	// go-smtp wants a greeting of its own and says EHLO again.
	s.conn.pre = []byte("220 continue\r\n")
	s.c = gosmtp.NewClient(s.conn)
	s.c.CommandTimeout, s.c.SubmissionTimeout = s.cfg.Command, s.cfg.DataDone
	return s.c.Hello(s.cfg.Hello)
}

// maxGreeting bounds what a peer says before the transaction.
const maxGreeting = 64 << 10

// handshake starts TLS. Bytes that came before it are an attack.
func (s *session) handshake(ctx context.Context, r *bufio.Reader) error {
	if r.Buffered() > 0 {
		return errors.New("peer sent data before the TLS handshake")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.cfg.TLS != nil {
		cfg = s.cfg.TLS.Clone()
	} else {
		cfg.InsecureSkipVerify = true // opportunistic, RFC 7435: any TLS is better than none
	}
	if cfg.ServerName == "" {
		cfg.ServerName = s.peer.host
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(s.peer.addr)
		}
	}
	t := tls.Client(s.conn.Conn, cfg)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%w: %w", errTLS, err)
	}
	s.conn.Conn = t
	return nil
}

// say sends a command and reads its reply.
func (s *session) say(r *bufio.Reader, line string) (*smtp.Reply, error) {
	if _, err := io.WriteString(s.conn, line+"\r\n"); err != nil {
		return nil, err
	}
	return readReply(r)
}

// readReply reads one reply of the phase before the transaction.
func readReply(r *bufio.Reader) (*smtp.Reply, error) {
	code, text, err := textproto.NewReader(r).ReadResponse(0)
	if err != nil {
		return nil, err
	}
	reply := &smtp.Reply{Code: code, Text: text}
	status, rest, _ := strings.Cut(text, " ")
	if st, ok := parseStatus(status, code); ok {
		reply.Status, reply.Text = st, rest
	}
	return reply, nil
}

func (s *session) close() { s.conn.Close() }

// quit ends the session politely, but not patiently.
func (s *session) quit() {
	s.c.CommandTimeout = 5 * time.Second
	_ = s.c.Quit()
	s.close()
}

// timedConn bounds every write by block, and everything by a context.
type timedConn struct {
	net.Conn
	pre   []byte // read before anything of the connection
	block time.Duration
	limit time.Time // of the context; zero is none
}

func (c *timedConn) Read(b []byte) (int, error) {
	if len(c.pre) > 0 {
		n := copy(b, c.pre)
		c.pre = c.pre[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *timedConn) Write(b []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(c.earliest(time.Now().Add(c.block)))
	return c.Conn.Write(b)
}

// SetDeadline is called by the client for each command. It cannot go past the
// context's deadline, and a removed deadline means that one.
func (c *timedConn) SetDeadline(t time.Time) error { return c.Conn.SetDeadline(c.earliest(t)) }

func (c *timedConn) earliest(t time.Time) time.Time {
	if t.IsZero() || !c.limit.IsZero() && c.limit.Before(t) {
		return c.limit
	}
	return t
}

// follow closes the connection when ctx ends; the returned function ends that.
func (c *timedConn) follow(ctx context.Context) (stop func()) {
	c.limit, _ = ctx.Deadline()
	raw := c.Conn
	end := context.AfterFunc(ctx, func() { raw.Close() })
	return func() {
		end()
		c.limit = time.Time{}
	}
}

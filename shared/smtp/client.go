package smtp

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Errors of the client that a caller can test for. A refusal by the peer is a
// *Reply in the chain of the error.
var (
	ErrNoTLS    = errors.New("smtp: peer does not offer TLS")
	ErrNoAuth   = errors.New("smtp: peer does not offer the mechanism")
	ErrClearPwd = errors.New("smtp: no password without TLS")
	ErrProtocol = errors.New("smtp: peer breaks the protocol")
	ErrUnusable = errors.New("smtp: connection is not usable")
)

// Default deadlines, RFC 5321 4.5.3.2. That of connecting covers TCP and TLS.
const (
	defaultConnect   = 30 * time.Second
	defaultCommand   = 5 * time.Minute
	defaultDataInit  = 2 * time.Minute
	defaultDataBlock = 3 * time.Minute
	defaultDataDone  = 10 * time.Minute
)

// Client is one connection to an SMTP or LMTP server. Its calls must not
// overlap, Close excepted.
type Client struct {
	cfg    ClientConfig
	nc     net.Conn
	raw    net.Conn // under TLS
	secure bool     // inside TLS
	ext    map[string]string
	in     replyReader
	ctx    context.Context // of the call that runs
	broken bool
	open   bool // the peer may hold an open transaction

	sending sending // what Send works with
}

// Dial connects to addr ("host:port", or the path of a unix socket), reads the
// banner, says EHLO or LHLO and starts TLS as cfg wants.
func Dial(ctx context.Context, addr string, cfg ClientConfig) (*Client, error) {
	dial := cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	fillTimeouts(&cfg)
	dctx, cancel := context.WithTimeout(ctx, cfg.Connect)
	nc, err := dial(dctx, network, addr)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("smtp: connect: %w", err)
	}
	host, _, _ := net.SplitHostPort(addr)
	return newClient(ctx, nc, host, cfg)
}

// NewClient is Dial over a connection that exists. host is the name that TLS
// checks when cfg.TLS names none. nc is closed on error.
func NewClient(ctx context.Context, nc net.Conn, host string, cfg ClientConfig) (*Client, error) {
	fillTimeouts(&cfg)
	return newClient(ctx, nc, host, cfg)
}

func fillTimeouts(cfg *ClientConfig) {
	for _, f := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&cfg.Connect, defaultConnect},
		{&cfg.Command, defaultCommand},
		{&cfg.DataInit, defaultDataInit},
		{&cfg.DataBlock, defaultDataBlock},
		{&cfg.DataDone, defaultDataDone},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
	}
}

func newClient(ctx context.Context, nc net.Conn, host string, cfg ClientConfig) (*Client, error) {
	c := &Client{cfg: cfg, nc: nc, raw: nc}
	c.in.buf = make([]byte, lineBuffer)
	defer c.watch(ctx)()
	if err := c.begin(host); err != nil {
		c.broken = true
		c.nc.Close()
		return nil, c.cause(err)
	}
	return c, nil
}

// watch makes the calls that follow end when ctx does. Its result ends that.
func (c *Client) watch(ctx context.Context) (stop func()) {
	c.ctx = ctx
	if ctx.Done() == nil {
		return func() {}
	}
	nc := c.nc
	cancel := context.AfterFunc(ctx, func() { nc.SetDeadline(past) })
	return func() {
		if !cancel() {
			c.broken = true // its deadline may strike at any time
		}
	}
}

// cause prefers the reason why ctx ended to the time-out that it made.
func (c *Client) cause(err error) error {
	if c.ctx.Err() != nil && isTimeout(err) {
		return fmt.Errorf("smtp: %w", context.Cause(c.ctx))
	}
	return err
}

// begin reads the banner and does TLS and hello.
func (c *Client) begin(host string) error {
	if c.cfg.TLS == nil && (c.cfg.Implicit || c.cfg.RequireTLS) {
		return ErrNoTLS
	}
	if c.cfg.Implicit {
		if err := c.handshake(host); err != nil {
			return err
		}
	}
	r, err := c.readReply(c.cfg.Command)
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return fmt.Errorf("smtp: banner: %w", r)
	}
	if err := c.hello(); err != nil {
		return err
	}
	if c.cfg.TLS == nil || c.secure {
		return nil
	}
	if _, ok := c.ext["STARTTLS"]; !ok {
		if c.cfg.RequireTLS {
			return ErrNoTLS
		}
		return nil
	}
	return c.startTLS(host)
}

// startTLS is RFC 3207. Octets that follow the reply were not sent inside TLS
// and end the connection.
func (c *Client) startTLS(host string) error {
	r, err := c.command(c.cfg.Command, "STARTTLS")
	switch {
	case err != nil:
		return err
	case r.Code != 220 && c.cfg.RequireTLS:
		return fmt.Errorf("%w: %w", ErrNoTLS, r)
	case r.Code != 220:
		return nil
	case c.in.buffered() > 0:
		return fmt.Errorf("%w: data behind the reply to STARTTLS", ErrProtocol)
	}
	if err := c.handshake(host); err != nil {
		return err
	}
	c.ext = nil
	return c.hello()
}

func (c *Client) handshake(host string) error {
	cfg := c.cfg.TLS
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	t := tls.Client(c.nc, cfg)
	c.nc.SetDeadline(time.Now().Add(c.cfg.Connect))
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("smtp: tls: %w", err)
	}
	c.nc.SetDeadline(time.Time{})
	c.nc, c.secure = t, true
	return nil
}

// hello sends EHLO or LHLO, and HELO to a server that does not know EHLO.
func (c *Client) hello() error {
	name := c.cfg.Hello
	if name == "" {
		name = "localhost"
	}
	if !plain(name) || strings.Contains(name, " ") {
		return fmt.Errorf("smtp: bad name for hello %q", name)
	}
	verb := "EHLO "
	if c.cfg.Protocol == LMTP {
		verb = "LHLO "
	}
	r, err := c.command(c.cfg.Command, verb+name)
	if err != nil {
		return err
	}
	if r.Code >= 500 && c.cfg.Protocol == SMTP && !c.cfg.RequireTLS {
		if r, err = c.command(c.cfg.Command, "HELO "+name); err != nil {
			return err
		}
		r = &Reply{Code: r.Code, Status: r.Status, Text: firstLine(r.Text)}
	}
	if r.Code != 250 {
		return fmt.Errorf("smtp: hello: %w", r)
	}
	c.ext = map[string]string{}
	for i, line := range strings.Split(r.Text, "\n") {
		if i > 0 {
			key, params, _ := strings.Cut(line, " ")
			c.ext[strings.ToUpper(key)] = strings.TrimSpace(params)
		}
	}
	return nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// Extension reports whether the peer offers the extension of this EHLO
// keyword, without regard to case, and its parameters.
func (c *Client) Extension(name string) (params string, ok bool) {
	params, ok = c.ext[strings.ToUpper(name)]
	return params, ok
}

// offers is Extension for a keyword in upper case.
func (c *Client) offers(name string) bool {
	_, ok := c.ext[name]
	return ok
}

// TLS is the state of the TLS connection, nil in the clear.
func (c *Client) TLS() *tls.ConnectionState {
	if t, ok := c.nc.(*tls.Conn); ok {
		s := t.ConnectionState()
		return &s
	}
	return nil
}

// Usable reports whether another transaction can be sent: nothing has failed,
// and an idle connection was not closed by the peer, as far as this host knows.
func (c *Client) Usable() bool { return !c.broken && c.in.buffered() == 0 && quiet(c.raw) }

// Close closes the connection without QUIT. It may be called at any time.
func (c *Client) Close() error { return c.nc.Close() }

// Quit sends QUIT, waits for its reply and closes the connection.
func (c *Client) Quit(ctx context.Context) error {
	_, err := c.simple(ctx, "QUIT")
	c.broken = true
	c.nc.Close()
	return err
}

// Noop sends NOOP, to see whether the connection still lives.
func (c *Client) Noop(ctx context.Context) error {
	_, err := c.simple(ctx, "NOOP")
	return err
}

// Reset sends RSET.
func (c *Client) Reset(ctx context.Context) error {
	r, err := c.simple(ctx, "RSET")
	if err == nil && r.OK() {
		c.open = false
	}
	return err
}

// simple sends one command whose reply should be of class 2.
func (c *Client) simple(ctx context.Context, line string) (*Reply, error) {
	if c.broken {
		return nil, ErrUnusable
	}
	defer c.watch(ctx)()
	r, err := c.command(c.cfg.Command, line)
	if err != nil {
		return nil, c.cause(err)
	}
	if !r.OK() {
		return r, fmt.Errorf("smtp: %s: %w", line, r)
	}
	return r, nil
}

// command sends one line and reads its reply.
func (c *Client) command(timeout time.Duration, line string) (*Reply, error) {
	if err := c.write([]byte(line+"\r\n"), timeout); err != nil {
		return nil, err
	}
	return c.readReply(timeout)
}

// write sends b whole.
func (c *Client) write(b []byte, timeout time.Duration) error {
	c.nc.SetWriteDeadline(time.Now().Add(timeout))
	if err := c.ctx.Err(); err != nil {
		c.broken = true
		return err
	}
	if _, err := c.nc.Write(b); err != nil {
		c.broken = true
		return fmt.Errorf("smtp: write: %w", err)
	}
	return nil
}

// Auth logs in with PLAIN, LOGIN or EXTERNAL; with EXTERNAL user is the
// identity to act as, "" for the certificate's own, and password is not used.
// A password is sent inside TLS or over loopback only.
func (c *Client) Auth(ctx context.Context, mech, user, password string) error {
	if c.broken {
		return ErrUnusable
	}
	offered, _ := c.Extension("AUTH")
	if !containsFold(strings.Fields(offered), mech) {
		return ErrNoAuth
	}
	if !c.secure && !strings.EqualFold(mech, "EXTERNAL") && !addrPort(c.nc.RemoteAddr()).Addr().IsLoopback() {
		return ErrClearPwd
	}
	defer c.watch(ctx)()
	r, err := c.exchange(strings.ToUpper(mech), user, password)
	if err != nil {
		return c.cause(err)
	}
	if r.Code == 334 { // a question nobody should ask: cancel, RFC 4954 section 4
		if r, err = c.command(c.cfg.Command, "*"); err != nil {
			return c.cause(err)
		}
	}
	if r.Code != 235 {
		return fmt.Errorf("smtp: auth: %w", r)
	}
	return nil
}

func containsFold(words []string, s string) bool {
	for _, w := range words {
		if strings.EqualFold(w, s) {
			return true
		}
	}
	return false
}

// exchange runs one mechanism to its last reply.
func (c *Client) exchange(mech, user, password string) (*Reply, error) {
	b64 := base64.StdEncoding.EncodeToString
	switch mech {
	case "PLAIN":
		return c.command(c.cfg.Command, "AUTH PLAIN "+b64([]byte("\x00"+user+"\x00"+password)))
	case "EXTERNAL":
		response := "="
		if user != "" {
			response = b64([]byte(user))
		}
		return c.command(c.cfg.Command, "AUTH EXTERNAL "+response)
	case "LOGIN":
		r, err := c.command(c.cfg.Command, "AUTH LOGIN")
		if err != nil || r.Code != 334 {
			return r, err
		}
		r, err = c.command(c.cfg.Command, b64([]byte(user)))
		if err != nil || r.Code != 334 {
			return r, err
		}
		return c.command(c.cfg.Command, b64([]byte(password)))
	}
	return nil, ErrNoAuth
}

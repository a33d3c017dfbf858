package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// conn is one connection being served.
type conn struct {
	srv    *Server
	cfg    *ServerConfig
	limits *Limits
	ctx    context.Context
	cancel context.CancelFunc
	cut    chan struct{} // closed when the end of ctx has ended reads and writes
	nc     net.Conn      // what is spoken over: raw, or TLS over it
	raw    net.Conn
	info   ConnInfo
	sess   Session

	in         input
	out        []byte // replies that wait to be sent
	deadline   time.Time
	sessionEnd time.Time
	readErr    error
	writeErr   error
	idle       atomic.Bool // waits for a command outside a transaction

	before       netip.AddrPort // the client as it was before XCLIENT
	hello        bool
	private      bool // the private capability was offered
	closing      bool
	abrupt       bool // closes while the peer may still be sending
	refused      bool // the command at hand, for good
	errors       int
	transactions int
	tx           transaction
}

// transaction is the mail transaction of a connection.
type transaction struct {
	open     bool // MAIL was accepted
	smtputf8 bool
	size     int64 // announced, -1 if not
	rcpts    int   // accepted
	incoming incoming
	msg      Message
}

// serve runs the session to its end.
func (c *conn) serve() {
	if err := c.begin(); err != nil {
		c.over(err)
		return
	}
	for !c.closing {
		line, fault, err := c.readLine()
		if err != nil {
			c.over(err)
			return
		}
		c.refused = false
		if fault != 0 {
			c.faultyLine(line, fault)
		} else if err := c.command(line); err != nil {
			c.over(err)
			return
		}
		if c.refused {
			if c.errors++; c.errors > c.limits.Errors && !c.closing {
				c.reply(replyErrors)
			}
		}
	}
	c.flush()
}

// begin does what comes before the first command: PROXY header, TLS, the hook
// and the banner.
func (c *conn) begin() error {
	c.waitUntil(c.limits.HandshakeTimout, time.Time{})
	if c.cfg.TrustProxy != nil && c.cfg.TrustProxy(c.info.Peer) {
		if err := c.readProxyHeader(); err != nil {
			return err
		}
	}
	c.before = c.info.Remote
	if c.srv.leaving.Load() && !c.cfg.ImplicitTLS {
		return errDraining
	}
	if c.cfg.ImplicitTLS {
		if err := c.handshake(); err != nil {
			return err
		}
	}
	c.openSession()
	return nil
}

// openSession calls the hook at connect and sends the banner or its refusal.
func (c *conn) openSession() {
	sess, err := c.cfg.NewSession(c.ctx, &c.info)
	if err != nil {
		r := replyNoSession
		var own *Reply
		if errors.As(err, &own) {
			r = &Reply{Code: own.Code, Status: own.Status, Text: own.Text, Close: true}
		} else {
			c.cfg.Log.Error("no session", "id", c.info.ID, "remote", c.info.Remote, "err", err)
		}
		c.reply(r)
		return
	}
	c.sess = sess
	c.out = append(c.out, "220 "...)
	c.out = append(c.out, c.cfg.Hostname...)
	if c.cfg.Protocol == LMTP {
		c.out = append(c.out, " LMTP\r\n"...)
	} else {
		c.out = append(c.out, " ESMTP\r\n"...)
	}
}

// handshake takes the connection into TLS. Nothing read before is kept, except
// by an implicit-TLS listener what followed the PROXY header.
func (c *conn) handshake() error {
	under := c.raw
	if n := c.in.buffered(); n > 0 {
		under = &prefixConn{Conn: c.raw, prefix: bytes.Clone(c.in.window())}
		c.in.r = c.in.w
	}
	t := tls.Server(under, c.cfg.TLS)
	c.waitUntil(c.limits.HandshakeTimout, time.Time{})
	c.raw.SetDeadline(c.deadline)
	if c.ctx.Err() != nil {
		return errKilled
	}
	// The deadline does what a context would, without a goroutine.
	if err := t.Handshake(); err != nil {
		c.cfg.Log.Info("tls handshake failed", "id", c.info.ID, "remote", c.info.Remote, "err", err)
		return io.EOF
	}
	state := t.ConnectionState()
	c.nc, c.info.TLS = t, &state
	return nil
}

// prefixConn is a connection of which some octets were read already.
type prefixConn struct {
	net.Conn
	prefix []byte
}

func (p *prefixConn) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// over takes leave when reading has failed with err.
func (c *conn) over(err error) {
	switch {
	case errors.Is(err, errKilled):
		<-c.cut // else it would end the write of the reply
		c.reply(replyShutdown)
	case errors.Is(err, errDraining):
		c.reply(replyShutdown)
	case errors.Is(err, errEndless):
		c.reply(replyLongLine)
	case errors.Is(err, errFlood):
		c.reply(replyTooBig)
	case isTimeout(err) && c.writeErr == nil:
		if time.Now().Before(c.sessionEnd) {
			c.reply(replyTimeout)
		} else {
			c.reply(replySession)
		}
	default:
		if !isEOF(err) {
			c.cfg.Log.Debug("connection lost", "id", c.info.ID, "remote", c.info.Remote, "err", err)
		}
		return
	}
	if c.sess == nil && c.info.TLS == nil && c.cfg.ImplicitTLS {
		return // not in the clear where TLS is spoken
	}
	c.abrupt = true
	c.flush()
}

// lingerTime and lingerOctets bound how long a closed session waits for its
// peer to have read the last reply.
const (
	lingerTime   = time.Second
	lingerOctets = 256 << 10
)

// end ends the session and closes the connection. Where the peer may still be
// sending, its octets are read for a moment first: closing over unread input
// makes TCP discard the last reply.
func (c *conn) end() {
	c.resetTransaction()
	if c.sess != nil {
		c.sess.Close()
	}
	if w, ok := c.raw.(interface{ CloseWrite() error }); ok && c.abrupt && c.writeErr == nil && c.ctx.Err() == nil {
		if t, ok := c.nc.(*tls.Conn); ok {
			t.CloseWrite()
		}
		w.CloseWrite()
		c.raw.SetReadDeadline(time.Now().Add(lingerTime))
		for left := lingerOctets; left > 0; {
			n, err := c.raw.Read(c.in.buf)
			if err != nil {
				break
			}
			left -= n
		}
	}
	c.nc.Close()
	c.in.close()
}

// reply queues r and notes whether it refuses the command and whether it ends
// the session.
func (c *conn) reply(r *Reply) {
	c.out = appendReply(c.out, r, c.tx.smtputf8)
	if r.Code >= 500 {
		c.refused = true
	}
	if r.Close || r.Code == 421 {
		c.closing = true
		c.abrupt = r != replyBye
	}
}

// answer queues the reply to a hook's err, usual if it is nil. It reports
// whether the command was accepted.
func (c *conn) answer(op string, err error, usual *Reply) bool {
	if err == nil {
		c.reply(usual)
		return true
	}
	r := ReplyFor(err)
	if r == nil || r.Code < 200 || r.Code > 599 || r.Code/100 == 3 {
		r = replyNoAnswer
	}
	if e := (*mail.Error)(nil); !errors.As(err, &e) && !errors.As(err, new(*Reply)) {
		c.cfg.Log.Error("unclassified error", "id", c.info.ID, "op", op, "err", err)
	}
	c.reply(r)
	return r.OK()
}

// resetTransaction forgets the transaction, if there is one.
func (c *conn) resetTransaction() {
	if !c.tx.open {
		return
	}
	c.tx.incoming.drop()
	c.tx = transaction{}
	if c.sess != nil {
		c.sess.Reset()
	}
}

// faultyLine answers a line that is not run as a command.
func (c *conn) faultyLine(line []byte, fault lineFault) {
	switch verb, args := splitVerb(line); {
	case fault&lineLong != 0:
		c.reply(replyLongLine)
	case verb == "MAIL" && controlInPath(args, "FROM:"):
		c.reply(replySender)
	case verb == "RCPT" && controlInPath(args, "TO:"):
		c.reply(replyRecipient)
	default:
		c.reply(replyBareLine)
	}
	if fault&lineOpen != 0 {
		c.closing, c.abrupt = true, true
	}
}

// controlInPath reports whether the path in args has a control octet in it.
func controlInPath(args []byte, prefix string) bool {
	path, ok := cutPrefixFold(string(args), prefix)
	if !ok {
		return false
	}
	_, _, err := mail.ParsePath(strings.TrimLeft(path, " "), true)
	return errors.Is(err, mail.ErrAddressControl)
}

// command runs one command line. An error ends the session.
func (c *conn) command(line []byte) error {
	verb, rest := splitVerb(line)
	switch verb {
	case "MAIL":
		c.mail(string(rest))
		return nil
	case "RCPT":
		c.rcpt(string(rest))
		return nil
	case "DATA":
		return c.data(rest)
	case "BDAT":
		return c.bdat(rest)
	case "RSET":
		if c.noArgs(rest) {
			c.resetTransaction()
			c.reply(replyReset)
		}
		return nil
	case "QUIT":
		if c.noArgs(rest) {
			c.reply(replyBye)
		}
		return nil
	case "NOOP":
		c.reply(replyOK)
		return nil
	}
	return c.otherCommand(verb, string(rest))
}

func (c *conn) otherCommand(verb, args string) error {
	switch verb {
	case "EHLO", "HELO":
		if c.cfg.Protocol == LMTP { // RFC 2033 4.1
			c.reply(replyUnknown)
			return nil
		}
		c.greet(args, verb == "EHLO")
	case "LHLO":
		if c.cfg.Protocol != LMTP {
			c.reply(replyUnknown)
			return nil
		}
		c.greet(args, true)
	case "STARTTLS":
		return c.startTLS(args)
	case "AUTH":
		return c.auth(args)
	case "VRFY":
		switch {
		case args == "":
			c.reply(replySyntax)
		case c.needTLS():
			c.reply(replyTLSFirst)
		default:
			c.reply(replyVerify)
		}
	case "HELP":
		c.reply(replyHelp)
	case "EXPN":
		c.reply(replyDisabled)
	case "XCLIENT":
		if !c.mayXClient() {
			c.reply(replyUnknown)
			return nil
		}
		c.xclient(args)
	default:
		c.reply(replyUnknown)
	}
	return nil
}

func (c *conn) noArgs(args []byte) bool {
	if len(args) > 0 {
		c.reply(replyNoArgs)
		return false
	}
	return true
}

// needTLS reports that this service wants TLS first.
func (c *conn) needTLS() bool { return c.cfg.RequireTLS && c.info.TLS == nil }

// greet answers EHLO, HELO and LHLO, which also reset the transaction.
func (c *conn) greet(name string, extended bool) {
	if name == "" || len(name) > mail.MaxDomain || strings.Contains(name, " ") || !plain(name) {
		c.reply(replySyntax)
		return
	}
	c.resetTransaction()
	c.info.Helo, c.info.ESMTP = name, extended
	if err := c.sess.Hello(c.ctx, &c.info); err != nil {
		c.hello = false
		if c.answer("Hello", err, nil) {
			c.hello = true // a text of its own, without extensions
		}
		return
	}
	c.hello = true
	c.private = c.cfg.Private != "" && c.cfg.PrivateFor != nil && c.cfg.PrivateFor(&c.info)
	if !extended {
		c.out = append(c.out, "250 "...)
		c.out = append(c.out, c.cfg.Hostname...)
		c.out = append(c.out, '\r', '\n')
		return
	}
	c.out = c.appendExtensions(c.out)
}

// appendExtensions prints the reply to EHLO (RFC 5321 4.1.1.1).
func (c *conn) appendExtensions(b []byte) []byte {
	last := 0
	line := func(words ...string) {
		last = len(b)
		b = append(b, "250-"...)
		for i, w := range words {
			if i > 0 {
				b = append(b, ' ')
			}
			b = append(b, w...)
		}
		b = append(b, '\r', '\n')
	}
	line(c.cfg.Hostname)
	line("PIPELINING")
	line("SIZE", formatInt(c.limits.Size))
	line("8BITMIME")
	line("SMTPUTF8")
	line("DSN")
	line("CHUNKING")
	if c.cfg.TLS != nil && c.info.TLS == nil {
		line("STARTTLS")
	}
	if m := c.mechanisms(); len(m) > 0 && c.info.AuthUser == "" {
		line(slices.Insert(m, 0, "AUTH")...)
	}
	if c.mayXClient() {
		line("XCLIENT", strings.Join(xclientNames, " "))
	}
	if c.private {
		line(c.cfg.Private)
	}
	line("ENHANCEDSTATUSCODES")
	b[last+3] = ' '
	return b
}

// startTLS is RFC 3207. What came before the handshake is forgotten, and a peer
// that sent anything behind the command is cut off.
func (c *conn) startTLS(args string) error {
	switch {
	case args != "":
		c.reply(replyNoArgs)
	case c.cfg.TLS == nil:
		c.reply(replyDisabled)
	case c.info.TLS != nil || c.info.AuthUser != "":
		c.reply(replySequence)
	case c.in.buffered() > 0:
		c.reply(replyPipelined)
	default:
		c.resetTransaction()
		c.reply(replyStartTLS)
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.handshake(); err != nil {
			return err
		}
		c.hello, c.private = false, false
		c.info.Helo, c.info.ESMTP = "", false
	}
	return nil
}

package embedded

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// Object identifiers of extended operations and controls.
const (
	oidStartTLS       = "1.3.6.1.4.1.1466.20037"
	oidWhoAmI         = "1.3.6.1.4.1.4203.1.11.3" // RFC 4532
	oidDisconnect     = "1.3.6.1.4.1.1466.20036"
	oidPasswordModify = "1.3.6.1.4.1.4203.1.11.1" // RFC 3062
	oidPaging         = "1.2.840.113556.1.4.319"  // RFC 2696
	oidManageDsaIT    = "2.16.840.1.113730.3.4.2" // RFC 3296: there are no referrals, so nothing to do
	maxKeptBuffer     = 256 << 10                 // larger request buffers are not kept between requests
	flushThreshold    = 64 << 10
)

// conn is one client. Requests are answered one after the other, in order;
// an abandoned request has always been answered by the time it is abandoned.
type conn struct {
	s    *Server
	id   int64
	nc   net.Conn
	r    *bufio.Reader
	out  ber.Encoder
	buf  []byte
	tls  bool
	root bool
	who  string // DN as it was bound, "" for anonymous
	norm string // its normal form
}

var errClose = errors.New("connection ends")

func (s *Server) serve(ctx context.Context, nc net.Conn) {
	c := &conn{s: s, id: s.nextID.Add(1), nc: nc, r: bufio.NewReaderSize(nc, 16<<10)}
	_, c.tls = nc.(*tls.Conn)
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	defer func() {
		// A bug must not take the process and its other rooms with it; the
		// stack goes to the log, the client sees the connection end.
		if p := recover(); p != nil {
			s.cfg.Log.Error("embedded directory: panic", "conn", c.id, "panic", p, "stack", string(debug.Stack()))
		}
		c.nc.Close()
	}()
	err := c.loop()
	if err != nil && !errors.Is(err, errClose) && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		s.cfg.Log.Debug("embedded directory: connection ended", "conn", c.id, "peer", nc.RemoteAddr().String(), "error", err)
	}
}

func (c *conn) loop() error {
	for {
		c.nc.SetReadDeadline(time.Now().Add(c.s.cfg.IdleTimeout))
		limit := maxAnonymousMessage
		if c.who != "" {
			limit = c.s.cfg.MaxMessage
		}
		var err error
		c.buf, err = ber.ReadFrame(c.r, c.buf, limit)
		if err != nil {
			if errors.Is(err, ber.ErrSyntax) || errors.Is(err, ber.ErrTooLong) {
				c.disconnect(codeProtocolError, err.Error())
			}
			return err
		}
		req, err := decode(c.buf)
		if req == nil {
			c.disconnect(codeProtocolError, "malformed message")
			return err
		}
		if err := c.answer(req, err); err != nil {
			c.flush()
			return err
		}
		if cap(c.buf) > maxKeptBuffer {
			c.buf = nil
		}
		if c.r.Buffered() == 0 || len(c.out.B) >= flushThreshold {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
}

func (c *conn) flush() error {
	if len(c.out.B) == 0 {
		return nil
	}
	c.nc.SetWriteDeadline(time.Now().Add(c.s.cfg.WriteTimeout))
	_, err := c.nc.Write(c.out.B)
	if cap(c.out.B) > 4*flushThreshold {
		c.out.B = nil
	}
	c.out.B = c.out.B[:0]
	return err
}

// respond appends an LDAPResult. The connection's output is flushed when the
// input is empty.
func (c *conn) respond(id int64, op byte, code int, matched, text string) {
	w := &c.out
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, id)
	res := w.Begin(op)
	w.Integer(ber.TagEnumerated, int64(code))
	w.Octets(ber.TagOctets, matched)
	w.Octets(ber.TagOctets, text)
	w.End(res)
	w.End(msg)
}

// respondTo turns the outcome of an operation into its response.
func (c *conn) respondTo(id int64, op byte, err error) {
	var re *resultError
	switch {
	case err == nil:
		c.respond(id, op, codeSuccess, "", "")
	case errors.As(err, &re):
		c.respond(id, op, re.code, re.matched, re.text)
	default:
		c.s.cfg.Log.Error("embedded directory: operation failed", "conn", c.id, "error", err)
		c.respond(id, op, codeOther, "", "internal error")
	}
}

// disconnect is the Notice of Disconnection (RFC 4511 4.4.1).
func (c *conn) disconnect(code int, text string) {
	w := &c.out
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, 0)
	res := w.Begin(opExtendedResponse)
	w.Integer(ber.TagEnumerated, int64(code))
	w.Octets(ber.TagOctets, "")
	w.Octets(ber.TagOctets, text)
	w.Octets(0x8a, oidDisconnect)
	w.End(res)
	w.End(msg)
	c.flush()
}

// responseOf is the tag of the response to a request, 0 when it has none.
func responseOf(op byte) byte {
	switch op {
	case opBind:
		return opBindResponse
	case opSearch:
		return opSearchDone
	case opModify:
		return opModifyResponse
	case opAdd:
		return opAddResponse
	case opDelete:
		return opDeleteResponse
	case opModifyDN:
		return opModifyDNResponse
	case opCompare:
		return opCompareResponse
	case opExtended:
		return opExtendedResponse
	}
	return 0
}

// answer carries out one request. An error ends the connection.
func (c *conn) answer(req *request, decodeErr error) error {
	if req.op == opUnbind {
		return errClose
	}
	if req.op == opAbandon {
		return nil
	}
	op := responseOf(req.op)
	if op == 0 {
		c.disconnect(codeProtocolError, "unknown operation")
		return errClose
	}
	if decodeErr != nil {
		code := codeProtocolError
		if errors.Is(decodeErr, errLimit) {
			code = codeAdminLimit
		}
		c.respond(req.id, op, code, "", decodeErr.Error())
		return nil
	}
	for _, ctl := range req.controls {
		known := ctl.oid == oidManageDsaIT || ctl.oid == oidPaging && req.op == opSearch
		if ctl.critical && !known {
			c.respond(req.id, op, codeCriticalExtension, "", "unknown critical control")
			return nil
		}
	}
	switch req.op {
	case opBind:
		c.respondTo(req.id, op, c.bind(req))
	case opSearch:
		return c.search(req)
	case opCompare:
		c.compare(req)
	case opExtended:
		return c.extended(req)
	default:
		c.s.tree.mu.RLock()
		err := c.s.viewOf(c.norm, c.root).allowed(c.s.tree, req)
		c.s.tree.mu.RUnlock()
		if err == nil {
			err = c.s.change(req, c.who)
		}
		c.respondTo(req.id, op, err)
	}
	return nil
}

// bind knows the simple method and EXTERNAL. A failed bind leaves the client
// anonymous (RFC 4511 4.2.1).
func (c *conn) bind(req *request) error {
	c.who, c.norm, c.root = "", "", false
	switch {
	case req.version != 3:
		return result(codeProtocolError, "only version 3")
	case !req.simple && strings.EqualFold(req.mech, "EXTERNAL"):
		return c.external(req)
	case !req.simple:
		return result(codeAuthMethod, "only simple bind and EXTERNAL")
	case req.dn == "" && req.password == "":
		return nil
	case req.password == "":
		return result(codeUnwilling, "unauthenticated bind (DN with no password) disallowed")
	case c.s.cfg.RequireTLS && !c.tls && !loopback(c.nc):
		return result(codeConfidentiality, "TLS required")
	}
	norm, err := normalDN(req.dn)
	if err != nil || norm == "" {
		return result(codeInvalidDN, "invalid DN")
	}
	if c.s.rootDN != "" && norm == c.s.rootDN {
		if auth.VerifyPassword(c.s.cfg.RootPassword, req.password) {
			c.who, c.norm, c.root = req.dn, norm, true
			return nil
		}
		return result(codeInvalidCredentials, "")
	}
	c.s.tree.mu.RLock()
	n := c.s.tree.nodes[norm]
	var o *object
	if n != nil {
		o = n.obj
	}
	c.s.tree.mu.RUnlock()
	if o == nil {
		return result(codeInvalidCredentials, "")
	}
	if !o.verify(req.password) {
		return result(codeInvalidCredentials, "")
	}
	c.who, c.norm = o.dn, norm
	return nil
}

func loopback(nc net.Conn) bool {
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

func (c *conn) extended(req *request) error {
	switch req.oid {
	case oidWhoAmI:
		authz := ""
		if c.who != "" {
			authz = "dn:" + c.who
		}
		c.extendedDone(req.id, authz)
		return nil
	case oidPasswordModify:
		generated, err := c.changePassword(req)
		if err != nil || generated == "" {
			c.respondTo(req.id, opExtendedResponse, err)
			return nil
		}
		var value ber.Encoder
		seq := value.Begin(ber.TagSequence)
		value.Octets(0x80, generated)
		value.End(seq)
		c.extendedDone(req.id, string(value.B))
		return nil
	case oidStartTLS:
		return c.startTLS(req)
	}
	c.respond(req.id, opExtendedResponse, codeProtocolError, "", "unknown extended operation")
	return nil
}

// extendedDone is a successful ExtendedResponse with a value.
func (c *conn) extendedDone(id int64, value string) {
	w := &c.out
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, id)
	res := w.Begin(opExtendedResponse)
	w.Integer(ber.TagEnumerated, codeSuccess)
	w.Octets(ber.TagOctets, "")
	w.Octets(ber.TagOctets, "")
	w.Octets(0x8b, value)
	w.End(res)
	w.End(msg)
}

func (c *conn) startTLS(req *request) error {
	switch {
	case c.s.cfg.TLS == nil:
		c.respond(req.id, opExtendedResponse, codeProtocolError, "", "TLS is not configured")
		return nil
	case c.tls:
		c.respond(req.id, opExtendedResponse, codeOperationsError, "", "TLS is established already")
		return nil
	case c.r.Buffered() > 0:
		// What was sent before the handshake must not count after it.
		c.disconnect(codeProtocolError, "request after StartTLS")
		return errClose
	}
	c.respond(req.id, opExtendedResponse, codeSuccess, "", "")
	if err := c.flush(); err != nil {
		return err
	}
	tc := tls.Server(c.nc, c.s.cfg.TLS)
	c.nc.SetDeadline(time.Now().Add(c.s.cfg.WriteTimeout))
	if err := tc.Handshake(); err != nil {
		return err
	}
	c.nc.SetDeadline(time.Time{})
	c.nc, c.tls = tc, true
	c.r.Reset(tc)
	c.who, c.norm, c.root = "", "", false
	return nil
}

package proxy

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/imapwire"
)

const (
	maxPreAuthText    = 8 << 10 // octets of a command before login, literals with it
	maxPreAuthLiteral = 4 << 10 // octets of one literal before login
	maxBad            = 10      // commands with a syntax error before BYE
)

// imapFront is an IMAP client that has not logged in.
type imapFront struct {
	*front
	r   *imapwire.Reader
	bad int
	out []byte // answers not yet written
}

func (f *front) imap() {
	i := &imapFront{front: f, r: imapwire.NewReader(f.conn, 0, maxPreAuthText)}
	i.say("* OK [%s] %s ready", i.capability(), f.cfg.Hostname)
	for {
		if i.r.Buffered() == 0 && i.flush() != nil {
			return
		}
		b, done := i.command()
		if b != nil {
			i.flush()
			f.spliceIMAP(i.r, b)
			return
		}
		if done || i.bad > maxBad {
			i.flush()
			return
		}
	}
}

func (i *imapFront) say(f string, a ...any) { i.out = fmt.Appendf(i.out, f+"\r\n", a...) }

func (i *imapFront) flush() error {
	if len(i.out) == 0 {
		return nil
	}
	_, err := i.conn.Write(i.out)
	i.out = i.out[:0]
	return err
}

// capability is what holds before login. What a backend can do is told after.
func (i *imapFront) capability() string {
	c := "CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID"
	if i.client.TLS == nil && i.cfg.TLS != nil {
		c += " STARTTLS"
	}
	if !i.mayPassword() {
		return c + " LOGINDISABLED"
	}
	return c + " AUTH=PLAIN AUTH=LOGIN"
}

// command reads and answers one command. It returns the backend session when
// the client has logged in, and done when the connection must end.
func (i *imapFront) command() (b *back, done bool) {
	cmd, err := i.r.ReadCommand()
	switch {
	case errors.Is(err, imapwire.ErrLineTooLong):
		i.say("* BYE Command line too long")
		return nil, true
	case errors.Is(err, imapwire.ErrSyntax):
		i.bad++
		i.say("%s BAD Command expected: tag, space, name", printable(cmd.Tag))
		return nil, false
	case err != nil:
		return nil, true
	}
	tag := printable(cmd.Tag)
	lit, has := cmd.Literal, cmd.HasLit
	for has { // keep the literals in the command's text
		if lit.Size > maxPreAuthLiteral {
			if lit.NonSync {
				i.say("* BYE [TOOBIG] Literal too large before login")
				return nil, true
			}
			i.say("%s BAD [TOOBIG] Literal too large before login", tag)
			return nil, false
		}
		if !lit.NonSync {
			i.say("+ Ready")
			if i.flush() != nil {
				return nil, true
			}
		}
		if err := i.r.Inline(int(lit.Size)); err != nil {
			return nil, true
		}
		line, err := i.r.Line()
		if err != nil {
			i.say("* BYE Command line too long")
			return nil, true
		}
		lit, has = imapwire.CommandLiteral(line)
	}
	text := i.r.Text()
	t, verb, uid, rest, ok := imapwire.SplitCommand(text)
	if !ok || uid {
		i.bad++
		i.say("%s BAD Command not possible before login", printable(t))
		return nil, false
	}
	var p imapwire.Parser
	p.Reset(text, rest)
	return i.dispatch(tag, strings.ToUpper(string(verb)), &p)
}

func (i *imapFront) dispatch(tag, verb string, p *imapwire.Parser) (b *back, done bool) {
	switch verb {
	case "CAPABILITY":
		i.say("* %s\r\n%s OK done", i.capability(), tag)
	case "NOOP":
		i.say("%s OK done", tag)
	case "ID":
		i.say("* ID (\"name\" \"Postern\")\r\n%s OK done", tag)
	case "LOGOUT":
		i.say("* BYE logging out\r\n%s OK done", tag)
		return nil, true
	case "STARTTLS":
		return nil, i.startTLS(tag, p)
	case "LOGIN":
		if !i.mayPassword() {
			i.say("%s NO [PRIVACYREQUIRED] Use STARTTLS first", tag)
			return nil, false
		}
		p.SP()
		user := string(p.AString())
		p.SP()
		password := string(p.AString())
		if err := p.End(); err != nil {
			i.bad++
			i.say("%s BAD %v", tag, err)
			return nil, false
		}
		// The same rules as for SASL PLAIN: UTF-8, no control characters.
		cred, err := auth.DecodePlain([]byte("\x00" + user + "\x00" + password))
		if err != nil {
			i.say("%s NO [AUTHENTICATIONFAILED] Login refused", tag)
			return nil, false
		}
		return i.finish(tag, cred)
	case "AUTHENTICATE":
		return i.authenticate(tag, p)
	default:
		i.bad++
		i.say("%s BAD Command not possible before login", tag)
	}
	return nil, false
}

func (i *imapFront) startTLS(tag string, p *imapwire.Parser) (done bool) {
	switch {
	case p.End() != nil:
		i.bad++
		i.say("%s BAD STARTTLS has no arguments", tag)
		return false
	case i.client.TLS != nil || i.cfg.TLS == nil:
		i.say("%s BAD TLS not possible now", tag)
		return false
	case i.r.Buffered() > 0:
		// Octets sent before the handshake would be taken for commands inside
		// it: RFC 9051 11.1 forbids them, so this is an attack or a bug.
		i.cfg.Log.Warn("proxy octets before TLS handshake", "client", i.client.Addr)
		return true
	}
	i.say("%s OK begin", tag)
	if i.flush() != nil || i.front.startTLS() != nil {
		return true
	}
	i.r = imapwire.NewReader(i.conn, 0, maxPreAuthText)
	return false
}

func (i *imapFront) authenticate(tag string, p *imapwire.Parser) (b *back, done bool) {
	p.SP()
	mech := string(p.Atom())
	var initial []byte
	given := false
	if p.Peek() == ' ' {
		p.SP()
		initial, given = append([]byte{}, p.Atom()...), true
	}
	if err := p.End(); err != nil {
		i.bad++
		i.say("%s BAD %v", tag, err)
		return nil, false
	}
	x, err := auth.NewExchange(mech)
	if err != nil || strings.EqualFold(mech, auth.External) && i.client.TLS == nil {
		i.say("%s NO Mechanism not offered", tag)
		return nil, false
	}
	if !i.mayPassword() {
		i.say("%s NO [PRIVACYREQUIRED] Use STARTTLS first", tag)
		return nil, false
	}
	var response []byte
	if given {
		if response, err = decode64(initial); err != nil {
			i.say("%s BAD Not base64", tag)
			return nil, false
		}
	}
	for {
		challenge, finished, err := x.Next(response)
		if err != nil {
			i.say("%s NO [AUTHENTICATIONFAILED] Login refused", tag)
			return nil, false
		}
		if finished {
			return i.finish(tag, x.Credentials())
		}
		i.say("+ %s", base64.StdEncoding.EncodeToString(challenge))
		if i.flush() != nil {
			return nil, true
		}
		i.r.Begin()
		line, err := i.r.Line()
		if err != nil {
			return nil, true
		}
		line = trimCRLF(line)
		if string(line) == "*" {
			i.say("%s BAD Authentication given up", tag)
			return nil, false
		}
		if response, err = decode64(line); err != nil {
			i.say("%s BAD Not base64", tag)
			return nil, false
		}
	}
}

// finish logs in and answers the command.
func (i *imapFront) finish(tag string, cred auth.Credentials) (b *back, done bool) {
	b, err := i.login(cred)
	switch {
	case errors.Is(err, ErrRefused):
		i.say("%s NO [AUTHENTICATIONFAILED] Login refused", tag)
		if i.failures >= i.cfg.Failures {
			i.say("* BYE Too many refused logins")
			return nil, true
		}
		return nil, false
	case errors.Is(err, errLimit): // RFC 5530
		i.say("%s NO [LIMIT] Too many sessions of this user", tag)
		return nil, false
	case err != nil:
		i.say("%s NO [UNAVAILABLE] Mailbox not available now, try again later", tag)
		return nil, false
	}
	i.say("%s OK %s", tag, b.text)
	i.conn.SetDeadline(time.Time{})
	return b, false
}

// decode64 reads base64; "=" is an empty response (RFC 4959).
func decode64(b []byte) ([]byte, error) {
	if string(b) == "=" {
		return []byte{}, nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Decode(out, b)
	return out[:n], err
}

func trimCRLF(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b
}

// printable is tag, or "*" when there is none to answer to.
func printable(tag []byte) string {
	if len(tag) == 0 {
		return "*"
	}
	return string(tag)
}

package proxy

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/auth"
)

const maxPOP3Line = 2 << 10 // octets of a command line

// popFront is a POP3 client that has not logged in.
type popFront struct {
	*front
	r    *bufio.Reader
	w    *bufio.Writer
	user string
	bad  int
}

func (f *front) pop3() {
	p := &popFront{front: f, r: bufio.NewReaderSize(f.conn, maxPOP3Line), w: bufio.NewWriterSize(f.conn, 1<<10)}
	p.say("+OK %s POP3 ready", f.cfg.Hostname)
	for p.bad <= maxBad {
		if p.r.Buffered() == 0 && p.w.Flush() != nil {
			return
		}
		line, err := p.line()
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				p.say("-ERR line too long")
				p.w.Flush()
			}
			return
		}
		b, done := p.command(line)
		if p.w.Buffered() > 0 && (b != nil || done) && p.w.Flush() != nil {
			done = true
		}
		if b != nil {
			p.splice(b)
			return
		}
		if done {
			return
		}
	}
	p.w.Flush()
}

func (p *popFront) say(f string, a ...any) { fmt.Fprintf(p.w, f+"\r\n", a...) }

func (p *popFront) line() (string, error) {
	line, err := p.r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	return string(trimCRLF(line)), nil
}

func (p *popFront) command(line string) (b *back, done bool) {
	verb, arg, hasArg := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "CAPA":
		p.say("+OK capabilities follow\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\nIMPLEMENTATION Postern")
		if p.client.TLS == nil && p.cfg.TLS != nil {
			p.say("STLS")
		}
		if p.mayPassword() {
			p.say("USER\r\nSASL PLAIN LOGIN")
		}
		p.say(".")
	case "QUIT":
		p.say("+OK bye")
		return nil, true
	case "STLS":
		return nil, p.stls()
	case "USER":
		if !p.mayPassword() {
			p.say("-ERR [AUTH] use STLS first")
			return nil, false
		}
		p.user = arg
		p.say("+OK send PASS")
	case "PASS":
		user := p.user
		p.user = ""
		if user == "" || !p.mayPassword() {
			p.say("-ERR send USER first")
			return nil, false
		}
		cred, err := auth.DecodePlain([]byte("\x00" + user + "\x00" + arg))
		if err != nil {
			p.say("-ERR [AUTH] login refused")
			return nil, false
		}
		return p.finish(cred)
	case "AUTH":
		return p.auth(arg, hasArg)
	default:
		p.bad++
		p.say("-ERR log in first")
	}
	return nil, false
}

func (p *popFront) stls() (done bool) {
	switch {
	case p.client.TLS != nil || p.cfg.TLS == nil:
		p.say("-ERR TLS not possible now")
		return false
	case p.r.Buffered() > 0: // octets before the handshake, see imapFront.startTLS
		p.cfg.Log.Warn("proxy octets before TLS handshake", "client", p.client.Addr)
		return true
	}
	p.say("+OK begin")
	if p.w.Flush() != nil || p.startTLS() != nil {
		return true
	}
	p.r.Reset(p.conn)
	p.w.Reset(p.conn)
	p.user = ""
	return false
}

func (p *popFront) auth(arg string, hasArg bool) (b *back, done bool) {
	if !hasArg {
		p.say("-ERR AUTH wants a mechanism; see CAPA")
		return nil, false
	}
	mech, initial, given := strings.Cut(arg, " ")
	x, err := auth.NewExchange(mech)
	if err != nil || !p.mayPassword() || strings.EqualFold(mech, auth.External) && p.client.TLS == nil {
		p.say("-ERR mechanism not offered")
		return nil, false
	}
	var response []byte
	if given {
		if response, err = decode64([]byte(initial)); err != nil {
			p.say("-ERR not base64")
			return nil, false
		}
	}
	for {
		challenge, finished, err := x.Next(response)
		if err != nil {
			p.say("-ERR [AUTH] login refused")
			return nil, false
		}
		if finished {
			return p.finish(x.Credentials())
		}
		p.say("+ %s", base64.StdEncoding.EncodeToString(challenge))
		if p.w.Flush() != nil {
			return nil, true
		}
		line, err := p.line()
		if err != nil {
			return nil, true
		}
		if line == "*" {
			p.say("-ERR given up")
			return nil, false
		}
		if response, err = decode64([]byte(line)); err != nil {
			p.say("-ERR not base64")
			return nil, false
		}
	}
}

// finish logs in and answers with what the backend said.
func (p *popFront) finish(cred auth.Credentials) (b *back, done bool) {
	b, err := p.login(cred)
	switch {
	case errors.Is(err, ErrRefused):
		p.say("-ERR [AUTH] login refused")
		return nil, p.failures >= p.cfg.Failures
	case err != nil:
		p.say("-ERR [SYS/TEMP] maildrop not available now, try again later")
		return nil, false
	}
	p.say("%s", b.text)
	if !strings.HasPrefix(b.text, "+OK") { // [IN-USE]
		b.conn.Close()
		return nil, false
	}
	p.conn.SetDeadline(time.Time{})
	return b, false
}

// splice passes lines and answers through. A POP3 session holds the maildrop
// of one replica; when that goes away the client's session ends with it and
// nothing that it marked is deleted (RFC 1939 section 6).
func (p *popFront) splice(b *back) {
	defer b.conn.Close()
	defer b.leave()()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer p.conn.Close()
		p.pump(p.conn, b.r)
	}()
	p.pump(b.conn, p.r)
	b.conn.Close()
	<-done
}

// pump copies until one side ends, with a fresh deadline for each piece.
func (p *popFront) pump(dst deadlineWriter, src *bufio.Reader) {
	for {
		if _, err := src.Peek(1); err != nil {
			return
		}
		piece, _ := src.Peek(src.Buffered())
		dst.SetWriteDeadline(time.Now().Add(2 * time.Minute))
		if _, err := dst.Write(piece); err != nil {
			return
		}
		src.Discard(len(piece))
		p.conn.SetReadDeadline(time.Now().Add(p.cfg.Idle))
	}
}

type deadlineWriter interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}

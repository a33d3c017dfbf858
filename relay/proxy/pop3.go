package proxy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
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

// popPipe is a logged-in POP3 session: commands one way, answers the other. Each
// command is a line, and has one answer, in the order of the commands.
type popPipe struct{ link }

// splice passes commands and answers until one side ends. When the replica goes
// away and does not say how another one goes on, the client's session ends, and
// nothing that it marked is deleted (RFC 1939 section 6).
func (p *popFront) splice(b *back) {
	s := &popPipe{link: newLink(p.front, b)}
	s.link.splice(func() {
		s.commands(p.r)
		s.end()
	}, s.answers, func(error) { s.end() })
}

// commands passes what the client sends, line by line.
func (p *popPipe) commands(r *bufio.Reader) {
	for {
		p.front.conn.SetReadDeadline(time.Now().Add(p.front.cfg.Idle))
		line, err := r.ReadSlice('\n')
		c := &sent{multi: hasLines(line)}
		if err == nil || errors.Is(err, bufio.ErrBufferFull) {
			if p.begin(c) != nil {
				return
			}
			p.send(c, line)
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the replica refuses it
			line, err = r.ReadSlice('\n')
			p.send(c, line)
		}
		if waiting, _ := r.Peek(r.Buffered()); err != nil || bytes.IndexByte(waiting, '\n') < 0 {
			p.flush()
		}
		if err != nil {
			return
		}
	}
}

// hasLines reports whether a command's +OK has lines after it (RFC 1939, RFC 2449).
func hasLines(line []byte) bool {
	verb, arg, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
	switch strings.ToUpper(verb) {
	case "RETR", "TOP", "CAPA":
		return true
	case "LIST", "UIDL":
		return arg == ""
	}
	return false
}

// answers passes what the replica sends until its end.
func (p *popPipe) answers(b *back) error {
	conn, r := p.front.conn, b.r
	var w *bufio.Writer
	defer func() {
		if w != nil {
			returnWriter(w)
		}
	}()
	const (
		status = iota // a status line begins
		rest          // a status line goes on
		body          // a line of an answer begins
		within        // such a line goes on
	)
	at, ok := status, false
	for {
		if w != nil && r.Buffered() == 0 {
			conn.SetWriteDeadline(time.Now().Add(2 * time.Minute))
			if err := w.Flush(); err != nil {
				return err
			}
			returnWriter(w)
			w = nil
			conn.SetReadDeadline(time.Now().Add(p.front.cfg.Idle))
		}
		if _, err := r.Peek(1); err != nil { // an idle session holds no writer
			return err
		}
		if w == nil {
			w = borrowWriter(conn)
		}
		piece, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		whole := err == nil
		if at == status {
			if n, moves := stateLines(piece); moves && whole {
				if err := p.keepState(r, n, string(piece)); err != nil {
					return err
				}
				return errors.Join(errMoves, w.Flush())
			}
			ok = bytes.HasPrefix(piece, []byte("+OK"))
		}
		if w.Available() < len(piece) {
			conn.SetWriteDeadline(time.Now().Add(2 * time.Minute))
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		switch {
		case at <= rest && !whole:
			at = rest
		case at <= rest:
			if at = status; p.answered(ok) {
				at = body
			}
		case !whole:
			at = within
		case at == body && len(trimCRLF(piece)) == 1 && piece[0] == '.':
			at = status
			p.done()
		default:
			at = body
		}
	}
}

// answered notes the status line of the oldest command. It reports whether lines
// follow; if not, the command is done.
func (p *popPipe) answered(ok bool) (lines bool) {
	p.mu.Lock()
	lines = ok && len(p.pending) > 0 && p.pending[0].multi
	p.mu.Unlock()
	if !lines {
		p.done()
	}
	return lines
}

// done takes the oldest command out, which has its whole answer.
func (p *popPipe) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) > 0 {
		p.forget(p.pending[0])
		p.pending = p.pending[1:]
		p.fewer.Signal()
	}
}

// maxStateLines bounds the lines of a session's state.
const maxStateLines = 1 << 10

// stateLines reads "-ERR [XRESUME n] text".
func stateLines(line []byte) (n int, ok bool) {
	after, ok := bytes.CutPrefix(line, []byte("-ERR [XRESUME "))
	if !ok {
		return 0, false
	}
	num, _, ok := bytes.Cut(after, []byte("]"))
	n, err := strconv.Atoi(string(num))
	return n, ok && err == nil && n > 0 && n <= maxStateLines
}

// keepState reads the n lines of a session's state.
func (p *popPipe) keepState(r *bufio.Reader, n int, text string) error {
	var state strings.Builder
	for range n {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		state.Write(trimCRLF(line))
		state.WriteString("\r\n")
	}
	if leader := nameIn(text, "leader="); leader != "" {
		p.front.cfg.Routes.Redirect(p.front.user.Pair, leader)
	}
	p.state = state.String()
	return nil
}

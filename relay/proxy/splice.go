package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/imapwire"
)

// pipe is a logged-in IMAP session: commands one way, responses the other.
//
// A replica that hands over ends its sessions between two commands and says how
// another one goes on with each (package imapd, XRESUME). The client notices
// nothing: what the first replica has not answered is sent again to the second,
// and what comes meanwhile waits.
type pipe struct {
	link

	// Guarded by mu.
	waiting chan bool // not nil while a synchronising literal waits for leave
	asking  *sent     // the command of that literal

	bye bool // the backend has said BYE; of the response goroutine
}

// spliceIMAP passes commands and responses until one side ends.
func (f *front) spliceIMAP(r *imapwire.Reader, b *back) {
	p := &pipe{link: newLink(f, b)}
	p.splice(func() {
		p.commands(imapwire.NewReader(io.MultiReader(bytes.NewReader(leftover(r)), f.conn), 0, 0))
		p.end()
	}, func(b *back) error {
		return p.responses(b)
	}, func(err error) {
		p.end()
		if !p.bye && !errors.Is(err, net.ErrClosed) {
			// RFC 9051 7.1.5: the client learns why; it logs in again and finds
			// the replica that serves now.
			f.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
			io.WriteString(f.conn, "* BYE [UNAVAILABLE] Mailbox server is changing, connect again\r\n")
		}
	})
}

// end lets a command that waits, to be sent or to send its literal, give up.
func (p *pipe) end() {
	p.link.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting != nil {
		close(p.waiting)
		p.waiting = nil
	}
}

// leftover takes the octets that a client sent behind its login.
func leftover(r *imapwire.Reader) []byte {
	n := r.Buffered()
	if n == 0 {
		r.Release()
		return nil
	}
	rest := make([]byte, n)
	r.ReadFull(rest)
	return rest
}

// commands passes what the client sends, command by command.
func (p *pipe) commands(r *imapwire.Reader) {
	conn, idle := p.front.conn, p.front.cfg.Idle
	for {
		conn.SetReadDeadline(time.Now().Add(idle))
		if r.Wait() != nil {
			return
		}
		err := p.batch(r)
		p.flush()
		if err != nil {
			return
		}
	}
}

// batch passes the commands that have arrived.
func (p *pipe) batch(r *imapwire.Reader) error {
	for {
		cmd, err := r.ReadCommand()
		switch {
		case errors.Is(err, imapwire.ErrSyntax):
			// DONE, the response to a challenge, or nonsense that the backend
			// answers with BAD.
			p.send(p.last(), cmd.Bytes)
		case err != nil:
			return err
		default:
			if err := p.command(r, cmd); err != nil {
				return err
			}
		}
		if r.Buffered() == 0 {
			return nil
		}
	}
}

func (p *pipe) command(r *imapwire.Reader, cmd imapwire.Command) error {
	c := &sent{tag: string(cmd.Tag)}
	if err := p.begin(c); err != nil {
		return err
	}
	piece := cmd.Piece
	for {
		var leave chan bool
		if piece.HasLit && !piece.Literal.NonSync {
			leave = p.ask(c)
		}
		p.send(c, piece.Bytes)
		if !piece.HasLit {
			return nil
		}
		if leave != nil {
			p.flush()
			if granted := <-leave; !granted {
				return nil // the backend answered the command instead
			}
		}
		for left := piece.Literal.Size; left > 0; {
			p.front.conn.SetReadDeadline(time.Now().Add(p.front.cfg.Idle))
			octets, err := r.Next(left)
			if err != nil {
				return err
			}
			left -= int64(len(octets))
			p.send(c, octets)
		}
		var err error
		if piece, err = r.Rest(); err != nil {
			return err
		}
	}
}

// ask prepares to wait for the backend's leave to send a literal.
func (p *pipe) ask(c *sent) chan bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	leave := make(chan bool, 1)
	if p.over {
		close(leave)
		return leave
	}
	p.waiting, p.asking = leave, c
	return leave
}

// responses passes what the backend sends, response by response, until its end.
func (p *pipe) responses(b *back) error {
	var src io.Reader = b.conn
	if n := b.r.Buffered(); n > 0 {
		rest, _ := b.r.Peek(n)
		src = io.MultiReader(bytes.NewReader(bytes.Clone(rest)), src)
	}
	b.r = nil
	r := imapwire.NewReader(src, 0, 0)
	for {
		if err := r.Wait(); err != nil {
			return err
		}
		w := borrowWriter(p.front.conn)
		err := p.relay(r, w)
		if err == nil || p.state != "" {
			p.front.conn.SetWriteDeadline(time.Now().Add(2 * time.Minute))
			err = errors.Join(err, w.Flush())
		}
		returnWriter(w)
		if err != nil {
			return err
		}
	}
}

// relay passes the responses that have arrived.
func (p *pipe) relay(r *imapwire.Reader, w *bufio.Writer) error {
	for {
		resp, err := r.ReadResponse()
		if err != nil && !errors.Is(err, imapwire.ErrSyntax) {
			return err
		}
		p.rest = ""
		mine := resp.Kind == imapwire.Untagged
		switch {
		case mine && bytes.HasPrefix(resp.Bytes, resumeCode):
			if p.state, err = p.stateIn(r, resp.Piece, resumeCode); err == nil && p.state != "" {
				err = errMoves
			}
		case mine && bytes.HasPrefix(resp.Bytes, waitingCode):
			p.rest, err = p.stateIn(r, resp.Piece, waitingCode)
		default:
			mine = err == nil && !p.note(&resp)
			err = nil
		}
		if !mine {
			err = p.write(r, w, resp)
		}
		if err != nil {
			return err
		}
		if r.Buffered() == 0 {
			return nil
		}
	}
}

// write passes a response that has begun to arrive.
func (p *pipe) write(r *imapwire.Reader, w *bufio.Writer, resp imapwire.Response) (err error) {
	status := resp.IsStatus()
	for piece := resp.Piece; ; {
		if _, err := w.Write(piece.Bytes); err != nil {
			return err
		}
		if !piece.More && !piece.HasLit {
			return nil
		}
		if piece.HasLit {
			if err := p.literal(r, w, piece.Literal.Size); err != nil {
				return err
			}
		}
		if piece, err = r.RestOfResponse(status); err != nil {
			return err
		}
	}
}

// What begins the responses that tell the state of a session: of one that ends, and
// of one that waits.
var (
	resumeCode  = []byte("* OK [XRESUME ")
	waitingCode = []byte("* OK [XWAITING ")
)

// maxState is the longest state of a session that is taken.
const maxState = 60 << 10

// stateIn takes the state out of a response that is not the client's; "" when there
// is none.
func (p *pipe) stateIn(r *imapwire.Reader, piece imapwire.Piece, code []byte) (state string, err error) {
	line := bytes.Clone(piece.Bytes[len(code):])
	for piece.More {
		if piece, err = r.RestOfResponse(true); err != nil {
			return "", err
		}
		if line = append(line, piece.Bytes...); len(line) > maxState {
			return "", errTooLong
		}
	}
	state, text, ok := strings.Cut(string(line), "]")
	if !ok || strings.ContainsAny(state, " \r\n") {
		return "", nil // the session ends with BYE
	}
	if leader := nameIn(text, "leader="); leader != "" {
		p.front.cfg.Routes.Redirect(p.front.user.Pair, leader)
	}
	return strings.Clone(state), nil // without the text
}

func (p *pipe) literal(r *imapwire.Reader, w *bufio.Writer, left int64) error {
	for left > 0 {
		octets, err := r.Next(left)
		if err != nil {
			return err
		}
		left -= int64(len(octets))
		if w.Available() < len(octets) {
			p.front.conn.SetWriteDeadline(time.Now().Add(2 * time.Minute))
		}
		if _, err := w.Write(octets); err != nil {
			return err
		}
	}
	return nil
}

// note keeps the list of unanswered commands and wakes one that waits to send
// a literal. It reports whether the client is to get the response.
func (p *pipe) note(resp *imapwire.Response) bool {
	if resp.Kind == imapwire.Untagged {
		p.bye = p.bye || bytes.EqualFold(resp.Name, []byte("BYE"))
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if resp.Kind == imapwire.Continuation {
		return p.continues()
	}
	for i, c := range p.pending {
		if c.tag == string(resp.Tag) {
			p.forget(c)
			p.pending = append(p.pending[:i], p.pending[i+1:]...)
			p.fewer.Signal()
			break
		}
	}
	if p.waiting != nil && p.asking.tag == string(resp.Tag) {
		p.waiting <- false
		p.waiting, p.asking = nil, nil
	}
	return true
}

// continues notes a continuation: one that the client has got already, leave for
// the literal that waits, or one of the command at work, the oldest. The caller
// holds mu.
func (p *pipe) continues() bool {
	switch {
	case len(p.pending) > 0 && p.pending[0].skip > 0:
		p.pending[0].skip--
		return false
	case p.waiting != nil:
		if c := p.asking; !c.lost {
			if err := c.text.unsync(); err != nil {
				p.lose(c, err)
			}
		}
		p.waiting <- true
		p.waiting, p.asking = nil, nil
	case len(p.pending) > 0:
		p.pending[0].passed++
	}
	return true
}

package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/imapwire"
)

// pipe is a logged-in IMAP session: commands one way, responses the other.
type pipe struct {
	front *front
	back  *back

	mu      sync.Mutex // guards what follows
	pending []string   // tags of commands sent and not answered
	waiting chan bool  // not nil while a synchronising literal waits for leave
	waitTag string
	over    bool

	bye bool // the backend has said BYE; of the response goroutine
}

// spliceIMAP passes commands and responses until one side ends.
func (f *front) spliceIMAP(r *imapwire.Reader, b *back) {
	defer b.conn.Close()
	defer b.leave()()
	p := &pipe{front: f, back: b}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := p.responses()
		p.end()
		if !p.bye && !errors.Is(err, net.ErrClosed) {
			// RFC 9051 7.1.5: the client learns why; it logs in again and finds
			// the replica that serves now.
			f.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
			io.WriteString(f.conn, "* BYE [UNAVAILABLE] Mailbox server is changing, connect again\r\n")
		}
		f.conn.Close()
	}()
	p.commands(imapwire.NewReader(io.MultiReader(bytes.NewReader(leftover(r)), f.conn), 0, 0))
	p.end()
	b.conn.Close()
	<-done
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

// end lets a command that waits for leave to send its literal give up.
func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.waiting != nil {
		close(p.waiting)
		p.waiting = nil
	}
}

// commands passes what the client sends, command by command.
func (p *pipe) commands(r *imapwire.Reader) {
	conn, idle := p.front.conn, p.front.srv.cfg.Idle
	for {
		conn.SetReadDeadline(time.Now().Add(idle))
		if r.Wait() != nil {
			return
		}
		w := borrowWriter(p.back.conn)
		err := p.batch(r, w)
		if err == nil {
			err = w.Flush()
		}
		returnWriter(w)
		if err != nil {
			return
		}
	}
}

// batch passes the commands that have arrived.
func (p *pipe) batch(r *imapwire.Reader, w *bufio.Writer) error {
	for {
		cmd, err := r.ReadCommand()
		switch {
		case errors.Is(err, imapwire.ErrSyntax):
			// DONE, the response to a challenge, or nonsense that the backend
			// answers with BAD.
			if _, err := w.Write(cmd.Bytes); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			if err := p.command(r, w, cmd); err != nil {
				return err
			}
		}
		if r.Buffered() == 0 {
			return nil
		}
	}
}

func (p *pipe) command(r *imapwire.Reader, w *bufio.Writer, cmd imapwire.Command) error {
	tag := string(cmd.Tag)
	p.mu.Lock()
	p.pending = append(p.pending, tag)
	p.mu.Unlock()
	piece := cmd.Piece
	for {
		var leave chan bool
		if piece.HasLit && !piece.Literal.NonSync {
			leave = p.ask(tag)
		}
		if _, err := w.Write(piece.Bytes); err != nil {
			return err
		}
		if !piece.HasLit {
			return nil
		}
		if leave != nil {
			if err := w.Flush(); err != nil {
				return err
			}
			if granted := <-leave; !granted {
				return nil // the backend answered the command instead
			}
		}
		for left := piece.Literal.Size; left > 0; {
			p.front.conn.SetReadDeadline(time.Now().Add(p.front.srv.cfg.Idle))
			octets, err := r.Next(left)
			if err != nil {
				return err
			}
			left -= int64(len(octets))
			if _, err := w.Write(octets); err != nil {
				return err
			}
		}
		var err error
		if piece, err = r.Rest(); err != nil {
			return err
		}
	}
}

// ask prepares to wait for the backend's leave to send a literal.
func (p *pipe) ask(tag string) chan bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan bool, 1)
	if p.over {
		close(c)
		return c
	}
	p.waiting, p.waitTag = c, tag
	return c
}

// responses passes what the backend sends, response by response.
func (p *pipe) responses() error {
	var src io.Reader = p.back.conn
	if n := p.back.r.Buffered(); n > 0 {
		rest, _ := p.back.r.Peek(n)
		src = io.MultiReader(bytes.NewReader(bytes.Clone(rest)), src)
	}
	p.back.r = nil
	r := imapwire.NewReader(src, 0, 0)
	for {
		if err := r.Wait(); err != nil {
			return err
		}
		w := borrowWriter(p.front.conn)
		err := p.relay(r, w)
		if err == nil {
			p.front.conn.SetWriteDeadline(time.Now().Add(2 * time.Minute))
			err = w.Flush()
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
		if err == nil {
			p.note(&resp)
		}
		status := resp.IsStatus()
		piece := resp.Piece
		for {
			if _, err := w.Write(piece.Bytes); err != nil {
				return err
			}
			if !piece.More && !piece.HasLit {
				break
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
		if r.Buffered() == 0 {
			return nil
		}
	}
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
// a literal.
func (p *pipe) note(resp *imapwire.Response) {
	if resp.Kind == imapwire.Untagged {
		p.bye = p.bye || bytes.EqualFold(resp.Name, []byte("BYE"))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if resp.Kind == imapwire.Continuation {
		if p.waiting != nil {
			p.waiting <- true
			p.waiting = nil
		}
		return
	}
	for i, tag := range p.pending {
		if tag == string(resp.Tag) {
			p.pending = append(p.pending[:i], p.pending[i+1:]...)
			break
		}
	}
	if p.waiting != nil && p.waitTag == string(resp.Tag) {
		p.waiting <- false
		p.waiting = nil
	}
}

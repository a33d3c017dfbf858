package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/imapwire"
	"github.com/postern-mail/postern/shared/metrics"
)

// link is a logged-in session's connection to the replica that serves its pair.
//
// A replica that hands over ends its sessions between two commands and says how
// another one goes on with each (XRESUME, packages imapd and pop3d). The client
// notices nothing: what the first replica has not answered is sent again to the
// second, and what comes meanwhile waits. One that ends without a word has told the
// state of a session that waits beforehand (XWAITING).
type link struct {
	front *front

	back *back       // changed with out and mu held
	stop func() bool // ends the watch over back

	out  sync.Mutex    // guards what follows; locked before mu
	w    *bufio.Writer // to back; nil when nothing waits to be flushed
	dead bool          // back takes nothing any more

	mu      sync.Mutex // guards what follows
	pending []*sent    // commands not answered, in the order of their coming
	fewer   *sync.Cond // told when one of them is answered, or all is over
	over    bool
	hurry   func() // what to do when the client says something; nil: nothing

	moved sync.WaitGroup // what sends commands again

	state string // for another replica to go on with; of the response goroutine
	rest  string // state of a session that waits, to which nothing was said since; likewise
}

// sent is a command that the replica has not answered.
type sent struct {
	tag    string // IMAP
	multi  bool   // POP3: +OK has lines after it
	text   kept   // what was sent of it
	lost   bool   // text is not whole: it cannot be sent again
	moving bool   // text is being sent again; then nobody drops it
	passed int    // continuations that the client has got, apart from leave for literals
	skip   int    // those that it must not get once more
}

// maxPending is how many commands of a session may wait for their answers; the
// client's next one is read when there are fewer.
const maxPending = 1000

func newLink(f *front, b *back) link {
	return link{front: f, back: b, stop: b.leave()}
}

// splice lets commands and responses pass until one side ends. commands returns when
// the client says no more, having called end; responses when the replica does, and then
// over is called, with the reason, before the client's connection is closed.
func (p *link) splice(commands func(), responses func(*back) error, over func(error)) {
	p.fewer = sync.NewCond(&p.mu)
	b := p.back
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := responses(b)
		for err != nil && p.goesOn() {
			if b = p.resume(); b == nil {
				break
			}
			err = responses(b)
		}
		if b != nil {
			b.conn.Close() // nothing waits to be sent again
		}
		over(err)
		p.front.conn.Close()
	}()
	commands()
	p.mu.Lock()
	last := p.back.conn // there is no other one after end
	p.mu.Unlock()
	last.Close()
	<-done
	p.moved.Wait()
	p.stop()
}

// keep notes octets of a command that are sent. The caller holds mu.
func (p *link) keep(c *sent, b []byte) {
	if c.lost || p.over {
		p.forget(c)
		return
	}
	c.text.st = &p.front.srv.kept
	if err := c.text.add(b, p.front.cfg.Spool); err != nil {
		p.lose(c, err)
	}
}

// lose forgets a command, with which the session cannot go on elsewhere.
func (p *link) lose(c *sent, err error) {
	p.front.cfg.Log.Info("proxy cannot keep a command", "account", p.front.user.Account, "err", err)
	p.forget(c)
}

// forget drops what is kept of a command, for good. The caller holds mu.
func (p *link) forget(c *sent) {
	if c.lost = true; !c.moving && c.text.st != nil {
		c.text.drop()
	}
}

// goesOn reports whether there is a state to go on with. What a replica that ended
// without a word has done of the commands before it is not known, except of IDLE, which
// does nothing.
func (p *link) goesOn() bool {
	if p.state != "" || p.rest == "" {
		return p.state != ""
	}
	p.out.Lock()
	defer p.out.Unlock()
	p.dead = true // what comes from now on was not sent
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over && p.waits() {
		p.state = p.rest
	}
	p.rest = ""
	return p.state != ""
}

// waits reports whether nothing but an IDLE is not answered; its DONE may have been
// sent. The caller holds mu.
func (p *link) waits() bool {
	if len(p.pending) != 1 {
		return len(p.pending) == 0
	}
	_, verb, _, _, ok := imapwire.SplitCommand(p.pending[0].text.head)
	return ok && imapwire.EqualFold(verb, "IDLE")
}

// rests returns what ends when somebody waits for the session.
func (p *link) rests() (hurry context.Context, stop func()) {
	hurry, cancel := context.WithCancel(p.front.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hurry = cancel; !p.waits() || len(p.pending) > 0 && bytes.Count(p.pending[0].text.head, []byte("\n")) > 1 {
		cancel()
	}
	return hurry, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.hurry = nil
		cancel()
	}
}

// resume goes on with the session at the replica that serves now. It returns nil
// when it cannot, and the session ends.
func (p *link) resume() *back {
	p.out.Lock()
	p.back.conn.Close()
	p.stop()
	p.dead = true
	p.out.Unlock()
	state := p.state
	p.state = ""
	cfg := p.front.cfg
	b, err := p.reopen(state)
	if err == nil {
		err = p.move(b)
	}
	if err != nil {
		cfg.Log.Info("proxy session cannot go on", "client", p.front.client.Addr, "account", p.front.user.Account, "err", err)
		return nil
	}
	metrics.ProxyResumed.Inc()
	return b
}

var (
	errOver    = errors.New("session is over")
	errMoves   = errors.New("session goes on at another replica")
	errTooLong = errors.New("a command under way is too long to be sent again")
)

// move makes b the replica of the session and begins to send it what is not
// answered, before anything else.
func (p *link) move(b *back) error {
	p.out.Lock()
	p.mu.Lock()
	err := error(nil)
	if p.over {
		err = errOver
	}
	again := slices.Clone(p.pending)
	for _, c := range again {
		if c.lost {
			err = errTooLong
		}
	}
	if err != nil {
		p.mu.Unlock()
		p.out.Unlock()
		b.conn.Close()
		return err
	}
	for _, c := range again {
		c.moving, c.skip = true, c.passed
	}
	p.back, p.stop = b, b.leave()
	p.mu.Unlock()
	p.drop()
	p.dead = false
	p.moved.Go(func() { // beside it the answers are read
		defer p.out.Unlock()
		for _, c := range again {
			p.again(c, b)
		}
	})
	return nil
}

// again sends a command once more. The caller holds out.
func (p *link) again(c *sent, b *back) {
	if !p.dead {
		w := deadlineWriter{b.conn, 30 * time.Second}
		if c.text.st != nil {
			if _, err := io.Copy(w, c.text.reader()); err != nil {
				p.dead = true
				b.conn.Close() // the answers end too
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.moving = false; c.lost {
		p.forget(c)
	}
}

// deadlineWriter gives each write its time.
type deadlineWriter struct {
	net.Conn
	limit time.Duration
}

func (w deadlineWriter) Write(b []byte) (int, error) {
	w.SetWriteDeadline(time.Now().Add(w.limit))
	defer w.SetWriteDeadline(time.Time{})
	return w.Conn.Write(b)
}

// drop forgets what was to be sent. The caller holds out.
func (p *link) drop() {
	if p.w != nil {
		returnWriter(p.w)
		p.w = nil
	}
}

// send passes octets of a command on; nil is no command. What the replica does
// not take is kept for the one that the session goes on with: whether there is
// one is seen by the response goroutine.
func (p *link) send(c *sent, b []byte) {
	p.out.Lock()
	defer p.out.Unlock()
	if c != nil {
		p.mu.Lock()
		p.keep(c, b)
		if p.hurry != nil {
			p.hurry()
		}
		p.mu.Unlock()
	}
	if p.dead {
		return
	}
	if p.w == nil {
		p.w = borrowWriter(p.back.conn)
	}
	if _, err := p.w.Write(b); err != nil {
		p.dead = true
	}
}

func (p *link) flush() {
	p.out.Lock()
	defer p.out.Unlock()
	if p.w != nil && !p.dead && p.w.Flush() != nil {
		p.dead = true
	}
	p.drop()
}

// end lets a command that waits to be sent give up, and forgets the others.
func (p *link) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.hurry != nil {
		p.hurry()
	}
	p.fewer.Broadcast()
	for _, c := range p.pending {
		p.forget(c)
	}
}

// last is the newest command without an answer.
func (p *link) last() *sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) == 0 {
		return nil
	}
	return p.pending[len(p.pending)-1]
}

// begin adds a command that is going to be sent, when there is room.
func (p *link) begin(c *sent) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) >= maxPending {
		p.mu.Unlock()
		p.flush() // what is to be answered
		p.mu.Lock()
	}
	for len(p.pending) >= maxPending && !p.over {
		p.fewer.Wait()
	}
	if p.over {
		return errOver
	}
	p.pending = append(p.pending, c)
	return nil
}

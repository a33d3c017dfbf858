package proxy

import (
	"bufio"
	"errors"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/metrics"
)

// link is a logged-in session's connection to the replica that serves its pair.
//
// A replica that hands over ends its sessions between two commands and says how
// another one goes on with each (XRESUME, packages imapd and pop3d). The client
// notices nothing: what the first replica has not answered is sent again to the
// second, and what comes meanwhile waits.
type link struct {
	front *front

	out  sync.Mutex // guards what follows; locked before mu
	back *back
	w    *bufio.Writer // to back; nil when nothing waits to be flushed
	stop func() bool   // ends the watch over back
	dead bool          // back takes nothing any more

	mu      sync.Mutex // guards what follows
	pending []*sent    // commands not answered, in the order of their coming
	fewer   *sync.Cond // told when one of them is answered, or all is over
	over    bool

	state string // for another replica to go on with; of the response goroutine
}

// sent is a command that the replica has not answered.
type sent struct {
	tag    string // IMAP
	multi  bool   // POP3: +OK has lines after it
	text   []byte // what was sent of it
	long   bool   // text is not whole: it cannot be sent again
	passed int    // continuations that the client has got, apart from leave for literals
	skip   int    // those that it must not get once more
}

// maxPending is how many commands of a session may wait for their answers; the
// client's next one is read when there are fewer.
const maxPending = 1000

// What is kept of commands to send them again, in octets: of each, and of all
// sessions.
const (
	maxKept    = 8 << 20
	maxKeptAll = 64 << 20
)

func newLink(f *front, b *back) link {
	return link{front: f, back: b, stop: b.leave()}
}

// splice lets commands and responses pass until one side ends. commands returns
// when the client says no more, or after end; responses when the replica does, and
// then over is called, with the reason, before the client's connection is closed.
func (p *link) splice(commands func(), responses func(*back) error, over func(error)) {
	p.fewer = sync.NewCond(&p.mu)
	b := p.back
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := responses(b)
		for err != nil && p.state != "" {
			if b = p.resume(); b == nil {
				break
			}
			err = responses(b)
		}
		over(err)
		p.front.conn.Close()
	}()
	commands()
	p.out.Lock()
	p.back.conn.Close()
	p.stop()
	p.out.Unlock()
	<-done
}

// keep notes octets of a command that are sent. The caller holds mu.
func (p *link) keep(c *sent, b []byte) {
	kept, n := &p.front.srv.kept, int64(len(b))
	room := !c.long && !p.over && len(c.text)+len(b) <= maxKept
	if room && kept.Add(n) > maxKeptAll {
		kept.Add(-n)
		room = false
	}
	if !room {
		p.forget(c)
		return
	}
	c.text = append(c.text, b...)
}

// forget drops what is kept of a command, for good. The caller holds mu.
func (p *link) forget(c *sent) {
	p.front.srv.kept.Add(-int64(len(c.text)))
	c.text, c.long = nil, true
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
	b, err := cfg.open(p.front.ctx, p.front.user, p.front.client, state)
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

// move makes b the replica of the session and sends what is not answered.
func (p *link) move(b *back) error {
	p.out.Lock()
	defer p.out.Unlock()
	p.mu.Lock()
	var text []byte
	err := error(nil)
	if p.over {
		err = errOver
	}
	for _, c := range p.pending {
		if c.long {
			err = errTooLong
		}
		text = append(text, c.text...)
		c.skip = c.passed
	}
	p.mu.Unlock()
	if err == nil {
		b.conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
		_, err = b.conn.Write(text)
		b.conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		b.conn.Close()
		return err
	}
	p.drop()
	p.back, p.stop, p.dead = b, b.leave(), false
	return nil
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

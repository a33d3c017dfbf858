package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/lmtpd"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/ha/witness"
	"github.com/postern-mail/postern/shared/smtp"
)

const (
	pairName = "pair1"
	raftPort = ":7000"
	lmtpPort = ":24"
	metaDir  = "meta"
)

// node is a host of the pair. What it stores outlives its processes.
type node struct {
	w    *world
	peer replica.Peer

	mu   sync.Mutex // guards what follows; nobody sleeps with it held
	disk disk
	cur  *proc // nil: nothing runs
	open bool  // cur can be used
}

// proc is one process on a node.
type proc struct {
	n    *node
	m    *mount
	end  *endpoint
	skew atomic.Int64 // of its wall clock, in nanoseconds

	dead   atomic.Bool // it has ended for all that others can see
	ends   atomic.Bool // close was called
	opened chan struct{}
	users  sync.WaitGroup // calls of clients
	paused atomic.Pointer[chan struct{}]

	replica *replica.Replica // nil on the witness
	witness *witness.Witness
	rows    *store.Store
	machine *fsm.FSM
	boxes   *mailbox.Service
	lmtp    *lmtpd.Server
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// config is what voter needs of a process.
func (p *proc) config() voter.Config {
	w, name := p.n.w, p.n.peer.Name
	cfg := voter.Config{
		Dir: "/" + name, Pair: pairName, ID: p.n.peer.ID, Peers: append([]replica.Peer(nil), w.peers...),
		ServerTLS: w.ca.server(name), ClientTLS: w.ca.client(name),
		Authorize: func(tls.ConnectionState) error { return nil },
		NodeOf:    func(s tls.ConnectionState) (string, error) { return s.PeerCertificates[0].Subject.CommonName, nil },
		FS:        p.m, SegmentSize: 256 << 10, CacheBytes: 64 << 10,
		Timings: replica.Timings{Snapshot: 5 * time.Second, Floor: time.Second},
		OnFatal: p.fatal, Dial: p.end.dial, Log: w.slog.With("node", name),
	}
	return cfg
}

// create makes the member's directory.
func (n *node) create() error {
	p := &proc{n: n, m: newMount(n.disk), end: n.w.net.attach(n.peer.Name)}
	if n.peer.Witness {
		return witness.Create(p.config())
	}
	return replica.Create(p.config())
}

// start runs a process; nothing runs now.
func (n *node) start() {
	n.mu.Lock()
	if n.cur != nil || n.w.over.Load() {
		n.mu.Unlock()
		return
	}
	p := &proc{n: n, m: newMount(n.disk), end: n.w.net.attach(n.peer.Name), opened: make(chan struct{})}
	n.cur = p
	n.mu.Unlock()
	err := p.open()
	n.mu.Lock()
	n.open = n.cur == p && err == nil
	n.mu.Unlock()
	close(p.opened)
	if err != nil && !p.dead.Load() {
		n.w.problem("%s does not start: %v", n.peer.Name, err)
	}
}

// use calls f with the process that runs. It reports whether there is one, and
// whether it was there until f was done.
func (n *node) use(f func(p *proc)) bool {
	n.mu.Lock()
	p := n.cur
	if p == nil || !n.open {
		n.mu.Unlock()
		return false
	}
	p.users.Add(1)
	n.mu.Unlock()
	defer p.users.Done()
	f(p)
	return !p.dead.Load()
}

// open opens what the process is made of, in the order of cmd/postern-backend.
func (p *proc) open() (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	cfg := p.config()
	if cfg.Listener, err = p.end.listen(p.n.peer.Addr); err != nil {
		return err
	}
	if p.n.peer.Witness {
		if p.witness, err = witness.New(cfg); err != nil {
			return err
		}
		p.wg.Go(func() { p.ended(p.witness.Run(ctx)) })
		return nil
	}
	log, hub := &pairLog{p: p}, new(notify.Hub)
	p.rows, err = store.Open(metaDir, log, store.Options{
		FS: p.m.disk.rows.FS(), MemTableSize: 256 << 10, CacheSize: 1 << 20, OnDiskFailure: p.fatal,
	})
	if err != nil {
		return err
	}
	p.machine, err = fsm.New(fsm.Config{
		Store: p.rows, Hub: hub, Fatal: p.fatal,
		Mismatch: func(account string, _ command.Key) { p.n.w.problem("key seen with another body, of %s", account) },
	})
	if err != nil {
		return err
	}
	if p.replica, err = replica.New(replica.Config{Config: cfg, FSM: &applier{FSM: p.machine}}); err != nil {
		return err
	}
	p.wg.Go(func() { p.ended(p.replica.Run(ctx)) })
	now := func() time.Time { return time.Now().Add(time.Duration(p.skew.Load())) }
	p.boxes, err = mailbox.New(mailbox.Config{Log: log, Store: p.rows, Hub: hub, Now: now, MaxMessage: 1 << 20})
	if err != nil {
		return err
	}
	return p.serve(ctx)
}

// serve offers LMTP to the relays.
func (p *proc) serve(ctx context.Context) (err error) {
	name := p.n.peer.Name
	p.lmtp, err = lmtpd.New(lmtpd.Config{
		Mailboxes: p.boxes, Hostname: name, PrivateFor: func(*smtp.ConnInfo) bool { return true }, MaxMessage: 1 << 20,
	})
	if err != nil {
		return err
	}
	l, err := p.end.listen(name + lmtpPort)
	if err != nil {
		return err
	}
	p.wg.Go(func() {
		if err := p.lmtp.Serve(ctx, l); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
			p.n.w.problem("%s: LMTP ended: %v", name, err)
		}
	})
	return nil
}

// ended is told of the end of Run. Like the daemon it takes what Run says for a
// fault only if nobody asked for the end: a process can be stopped before it runs.
func (p *proc) ended(err error) {
	if err != nil && !p.dead.Load() && !p.ends.Load() {
		p.n.w.problem("%s ended: %v", p.n.peer.Name, err)
	}
}

// fatal is OnFatal: the process ends at once.
func (p *proc) fatal(err error) {
	if p.dead.Load() {
		return
	}
	if !p.m.failed.Load() {
		p.n.w.problem("%s must end: %v", p.n.peer.Name, err)
	}
	p.n.w.note("%s ends: %v", p.n.peer.Name, err)
	p.n.end(p, loseUnsynced, false) // nothing is known about what a failed flush wrote
	p.n.w.wg.Go(func() {
		time.Sleep(300 * time.Millisecond)
		p.n.start()
	})
}

// end ends a process as seed says, and leaves its disk to the next one. Its
// goroutines end later, cut off from everything.
func (n *node) end(p *proc, seed uint64, power bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p == nil || n.cur != p {
		return
	}
	n.cur, n.open = nil, false
	p.dead.Store(true)
	p.end.sever(power)
	n.disk = p.m.crash(seed)
	p.m.stall.Store(0)
	p.resume()
	n.w.wg.Go(p.close)
}

// kill ends what runs.
func (n *node) kill(seed uint64, power bool) { n.end(n.running(), seed, power) }

func (n *node) running() *proc {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cur
}

// stop ends a process in order, as a restart for an upgrade does.
func (n *node) stop() {
	p := n.running()
	if p == nil {
		return
	}
	n.mu.Lock()
	n.open = n.open && n.cur != p
	n.mu.Unlock()
	p.close()
	n.end(p, loseNothing, false)
}

// close ends all goroutines of a process. The second call does nothing.
func (p *proc) close() {
	if !p.ends.CompareAndSwap(false, true) {
		return
	}
	<-p.opened
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if p.replica != nil {
		_ = p.replica.Shutdown(ctx) // it may have lost its disk
	}
	if p.cancel != nil {
		p.cancel()
	}
	if p.lmtp != nil {
		_ = p.lmtp.Shutdown(ctx)
	}
	if p.witness != nil {
		_ = p.witness.Close()
	}
	p.wg.Wait()
	p.users.Wait()
	if p.machine != nil {
		p.machine.Close()
	}
	if p.rows != nil {
		_ = p.rows.Close()
	}
}

// pause holds up what goes in and out of a process, until resume.
func (p *proc) pause() {
	ch := make(chan struct{})
	p.paused.CompareAndSwap(nil, &ch) // one that is paused already goes on with the first end
}

func (p *proc) resume() {
	if ch := p.paused.Swap(nil); ch != nil {
		close(*ch)
	}
}

// maybeHeld is held, or not: the moment at which a pause begins may be any between
// two steps of a call.
func (p *proc) maybeHeld() {
	if p.paused.Load() != nil && p.n.w.coin() {
		p.held()
	}
}

// held waits while the process is paused.
func (p *proc) held() {
	if ch := p.paused.Load(); ch != nil {
		<-*ch
	}
}

// applier is the state machine as the replica wants it.
type applier struct{ *fsm.FSM }

// Apply implements replica.StateMachine.
func (a *applier) Apply(batch []replica.Entry) []any {
	entries := make([]fsm.Entry, len(batch))
	for i, e := range batch {
		entries[i] = fsm.Entry(e)
	}
	return a.FSM.Apply(entries)
}

// pairLog is the replica as packages mailbox and store want it; see the one of
// cmd/postern-backend. A process that is paused is so between a question and what follows.
type pairLog struct{ p *proc }

// Propose implements mailbox.Log.
func (l *pairLog) Propose(ctx context.Context, data []byte) (any, uint64, error) {
	if l.p.replica == nil {
		return nil, 0, &mailbox.ErrNotServing{}
	}
	result, index, err := l.p.replica.Propose(ctx, data)
	l.p.maybeHeld()
	return result, index, l.translate(err)
}

// Confirm implements mailbox.Log.
func (l *pairLog) Confirm(ctx context.Context) error {
	if l.p.replica == nil {
		return &mailbox.ErrNotServing{}
	}
	err := l.p.replica.Confirm(ctx)
	l.p.maybeHeld()
	if errors.Is(err, replica.ErrNoQuorum) {
		return &mailbox.ErrNotServing{}
	}
	return l.translate(err)
}

// ReadEntry implements store.Bodies.
func (l *pairLog) ReadEntry(index uint64, buf []byte) ([]byte, error) {
	if l.p.replica == nil {
		return nil, errors.New("the replica starts")
	}
	return l.p.replica.Log().ReadEntry(index, buf)
}

func (l *pairLog) translate(err error) error {
	var not replica.ErrNotServing
	switch {
	case err == nil:
		return nil
	case errors.As(err, &not):
		if not.Name == "w" {
			not.Name = ""
		}
		return &mailbox.ErrNotServing{Leader: not.Name}
	case errors.Is(err, replica.ErrUnknown):
		return fmt.Errorf("%w: %w", mailbox.ErrUnknownState, err)
	case errors.Is(err, replica.ErrBusy), errors.Is(err, replica.ErrNoSpace):
		return fmt.Errorf("%w: %w", mailbox.ErrBusy, err)
	case errors.Is(err, replica.ErrTooLarge):
		return fmt.Errorf("%w: %w", mailbox.ErrTooBig, err)
	}
	return err
}

// logger writes what the product logs into the record of the run.
func (w *world) logger() *slog.Logger {
	if !*verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(lineWriter{w}, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

type lineWriter struct{ w *world }

func (l lineWriter) Write(b []byte) (int, error) {
	l.w.note("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	"github.com/postern-mail/postern/relay/jobctl"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

// relayNames are the relays of a run.
var relayNames = []string{"r1", "r2"}

// relay is a host of the first tier.
type relay struct {
	w    *world
	name string

	mu   sync.Mutex // guards what follows; nobody sleeps with it held
	disk disk
	cur  *relayProc
}

// relayProc is one process on a relay.
type relayProc struct {
	r      *relay
	m      *mount
	end    *endpoint
	dead   atomic.Bool
	ends   atomic.Bool
	users  sync.WaitGroup
	wg     sync.WaitGroup
	cancel context.CancelFunc

	queue *queue.Queue
	agent *lmtp.Agent
	jobs  *jobctl.Controller
	door  *transaction.Acceptor
}

func (w *world) newRelay(name string, seed uint64) *relay {
	return &relay{w: w, name: name, disk: disk{files: faultfs.New(seed)}}
}

// directory sends everybody's mail to the one pair.
type directory struct{}

// Rcpt implements transaction.Expander.
func (directory) Rcpt(_ context.Context, _ *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	r.Channel, r.NextHop, r.Mailbox = mail.ChannelLMTP, pairName, r.Address.String()
	return []mail.Recipient{r}, nil
}

// returns is told of mail that is given back. Nothing here may be.
type returns struct{ w *world }

// Report implements jobctl.Reporter.
func (r returns) Report(_ context.Context, it *queue.Item, rcpts []queue.Recipient, _ []byte) error {
	r.w.problem("a relay gives %s back: %v", it.ID(), rcpts[0].Answer)
	return nil
}

// start runs a process; nothing runs now.
func (r *relay) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cur != nil || r.w.over.Load() {
		return
	}
	p := &relayProc{r: r, m: newMount(r.disk), end: r.w.net.attach(r.name)}
	if err := p.open(); err != nil {
		r.w.problem("%s does not start: %v", r.name, err)
		return
	}
	r.cur = p
}

// open makes a relay of its parts, in the order of package transaction.
func (p *relayProc) open() (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	log := p.r.w.slog.With("node", p.r.name)
	if p.queue, err = queue.Open(queue.Config{Dir: "/queue", FS: p.m, Fatal: p.fatal, Log: log}); err != nil {
		return err
	}
	table := new(route.Table)
	for _, name := range []string{"a", "b"} {
		table.Update(route.Node{
			Name: name, Pair: pairName, Alive: true, Addr: map[route.Service]string{route.LMTP: name + lmtpPort},
		})
	}
	p.agent, err = lmtp.New(lmtp.Config{Hello: p.r.name, Routes: table, Dial: p.end.dial})
	if err != nil {
		return err
	}
	p.door, err = transaction.New(transaction.Config{
		Hostname: p.r.name, Origin: p.r.name, Domain: "example.org", Expander: directory{}, Queue: p.queue, Pairs: p.agent, Log: log,
	})
	if err != nil {
		return err
	}
	p.jobs, err = jobctl.New(jobctl.Config{
		Queue: p.queue, Reporter: returns{p.r.w}, Log: log,
		Agents: map[mail.Channel]deliver.Agent{mail.ChannelLMTP: p.agent},
		OnDelivered: func(_ mail.Channel, hop string) {
			p.door.Answered(hop)
		},
	})
	if err != nil {
		return err
	}
	p.queue.OnSubmit(p.jobs.Submitted)
	p.door.OnReady(func(pair string) { p.jobs.Wake(mail.ChannelLMTP, pair) })
	p.wg.Go(func() { _ = p.jobs.Run(ctx) })
	return nil
}

// fatal is told of a queue that cannot go on; no disk of a relay fails here.
func (p *relayProc) fatal(err error) {
	if !p.dead.Load() {
		p.r.w.problem("%s must end: %v", p.r.name, err)
	}
}

// kill ends what runs as seed says.
func (r *relay) kill(seed uint64, power bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.cur
	if p == nil {
		return
	}
	r.cur = nil
	p.dead.Store(true)
	p.end.sever(power)
	r.disk = p.m.crash(seed)
	r.w.wg.Go(p.close)
}

// stop ends a process in order.
func (r *relay) stop() {
	r.mu.Lock()
	p := r.cur
	r.mu.Unlock()
	if p != nil {
		p.close()
		r.kill(loseNothing, false)
	}
}

func (p *relayProc) close() {
	if !p.ends.CompareAndSwap(false, true) {
		return
	}
	p.cancel()
	p.wg.Wait()
	p.users.Wait()
	p.door.Close()
	_ = p.agent.Close() // its connections may be gone
	_ = p.queue.Close() // nothing of it counts any more
}

// use calls f with the process that runs, and reports whether there was one
// until f was done.
func (r *relay) use(f func(p *relayProc)) bool {
	r.mu.Lock()
	p := r.cur
	if p == nil || p.ends.Load() {
		r.mu.Unlock()
		return false
	}
	p.users.Add(1)
	r.mu.Unlock()
	defer p.users.Done()
	f(p)
	return !p.dead.Load()
}

// empty reports whether a relay runs and has nothing left to deliver.
func (r *relay) empty() bool {
	n := int64(1)
	ok := r.use(func(p *relayProc) { n = p.queue.Stats().Messages })
	return ok && n == 0
}

// letter is a message that a client gave to a relay.
type letter struct {
	to    []string
	acked bool
}

// ledgerBoxes get the mail of the relays.
const ledgerBoxes = 4

// mailer is a client that sends mail and notes what it is told.
type mailer struct {
	w    *world
	id   int
	rng  *rand.Rand
	sent int
}

// run sends until stop is closed.
func (m *mailer) run(stop <-chan struct{}) {
	for {
		pause(time.Duration(1+m.rng.IntN(200))*time.Millisecond, nil, stop)
		select {
		case <-stop:
			return
		default:
		}
		m.send()
	}
}

func (m *mailer) send() {
	m.sent++
	what := fmt.Sprintf("m%d-%d", m.id, m.sent)
	l := &letter{}
	for _, k := range m.rng.Perm(ledgerBoxes)[:1+m.rng.IntN(3)] {
		l.to = append(l.to, fmt.Sprintf("l%d@example.org", k))
	}
	m.w.mu.Lock()
	m.w.letters[what] = l
	m.w.mu.Unlock()
	body := text(what, int64(150+m.rng.IntN(1500)))
	ok := false
	alive := m.w.relays[m.rng.IntN(len(m.w.relays))].use(func(p *relayProc) { ok = p.accept(body, l.to) })
	if ok && alive {
		m.w.mu.Lock()
		l.acked = true
		m.w.mu.Unlock()
		m.w.count("accepted")
	} else {
		m.w.count("not accepted")
	}
}

// accept is one transaction.
func (p *relayProc) accept(body []byte, to []string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	env := mail.Envelope{ReversePath: mail.Address{Local: "ann", Domain: "example.net"}}
	t, err := p.door.Begin(ctx, env, transaction.Source{Client: netip.MustParseAddrPort("192.0.2.1:25"), Helo: "client", Protocol: "ESMTP"})
	if err != nil {
		return false
	}
	for _, rcpt := range to {
		a, err := mail.ParseAddress(rcpt, false)
		if err == nil {
			err = t.Rcpt(ctx, mail.Recipient{Address: a})
		}
		if err != nil {
			p.r.w.problem("%s: %s is refused: %v", p.r.name, rcpt, err)
			return false
		}
	}
	return t.Data(ctx, transaction.Content{Bytes: slices.Clone(body)}).OK()
}

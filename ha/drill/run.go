package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/ha/drill/mailbox"
)

// Options are how a drill is run. Zero fields have defaults, see Fill.
type Options struct {
	For     time.Duration // of the load; of random faults, what comes before and after is extra
	Hold    time.Duration // of the fault, where the scenario has one that lasts; 0: two fifths of For
	Pair    string        // that is hurt; "" is the first
	Senders int
	// Sessions is how many users' sessions by IMAP there are: one that works all
	// the time, and others that do something once a second.
	Sessions int
	// Users is how many get mail; 0 is 40, or what the scenario wants, or all when
	// there are fewer.
	Users int
	Rate  int // messages per second
	Size  int // octets of a message
	Seed  uint64
	// Slack multiplies the limits of gaps, for machines that are slow or busy.
	Slack float64
	// NegativeControl removes one acknowledged message before the mailboxes are
	// read: a drill that does not notice is worth nothing.
	NegativeControl bool
	// Progress is told several times a second how far the drill is.
	Progress func(Progress)

	// patience is the time for queues to empty after the load, half of it that for
	// replicas to become equal.
	patience time.Duration
}

// Limits of Options.
const (
	MinFor     = 5 * time.Second
	MaxFor     = 24 * time.Hour
	MaxSenders = 1000
	// MaxSessions is what a relay lets in when nobody has said otherwise.
	MaxSessions = 20_000
	MaxUsers    = 10_000
	MaxSize     = 10 << 20
	MaxSlack    = 100.0
)

// quietAtMost is how long a load goes on before the fault, and after it.
const quietAtMost = 2 * time.Minute

// Fill sets what is zero and refuses what is out of bounds.
func (o *Options) Fill() error {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if o.For == 0 {
		o.For = 20 * time.Second
	}
	if o.Hold == 0 {
		o.Hold = o.For * 2 / 5
	}
	set(&o.Senders, 8)
	set(&o.Sessions, 1)
	set(&o.Rate, 100)
	set(&o.Size, 4096)
	if o.patience == 0 {
		o.patience = 90 * time.Second
	}
	if o.Slack == 0 {
		o.Slack = 1
	}
	switch {
	case o.For < MinFor || o.For > MaxFor:
		return fmt.Errorf("a load of %v: want %v to %v", o.For, MinFor, MaxFor)
	case o.Hold < 0 || o.Hold > o.For*4/5:
		return fmt.Errorf("a fault of %v: want at most four fifths of the load, %v", o.Hold, o.For*4/5)
	case o.Senders < 1 || o.Senders > MaxSenders:
		return fmt.Errorf("%d senders: want 1 to %d", o.Senders, MaxSenders)
	case o.Sessions < 1 || o.Sessions > MaxSessions:
		return fmt.Errorf("%d sessions: want 1 to %d", o.Sessions, MaxSessions)
	case o.Users < 0 || o.Users > MaxUsers:
		return fmt.Errorf("%d users: want at most %d", o.Users, MaxUsers)
	case o.Rate < 1 || o.Rate > 100_000:
		return fmt.Errorf("%d messages per second: want 1 to 100000", o.Rate)
	case o.For.Seconds()*float64(o.Rate) > ledger.Max*9/10:
		return fmt.Errorf("%d messages per second for %v are more than the record of %d holds", o.Rate, o.For, ledger.Max)
	case o.Slack < 1 || o.Slack > MaxSlack:
		return fmt.Errorf("limits times %v: want 1 to %v", o.Slack, MaxSlack)
	case o.Size < 1 || o.Size > MaxSize:
		return fmt.Errorf("messages of %d octets: want 1 to %d", o.Size, MaxSize)
	}
	return nil
}

// Progress is how far a drill is.
type Progress struct {
	Scenario, Phase                      string
	Elapsed, For                         time.Duration
	Sent, Acknowledged, Refused, Unknown int
}

const (
	// maxUsers is how many users get mail when nobody has said otherwise.
	maxUsers = 40
	// sendWithin bounds one answer to a sender, readWithin one to a reader,
	// probeWithin one to the user at work.
	sendWithin  = 20 * time.Second
	readWithin  = 30 * time.Second
	probeWithin = 5 * time.Second
	// otherEvery is the pause of a session beside that of the user at work, joinEvery
	// the time between the first logins of two of these.
	otherEvery = time.Second
	joinEvery  = 5 * time.Millisecond
	// markWithin bounds the look at all mailboxes before the drill, readAllWithin
	// the reading after it.
	markWithin    = 60 * time.Second
	readAllWithin = 20 * time.Minute
	// undoWithin bounds the taking back of faults when the drill has to end.
	undoWithin = 60 * time.Second
)

// Run runs a scenario on a target. The error of a drill that could not be run
// is in the Result.
func Run(ctx context.Context, t Target, s *Scenario, o Options) *Result {
	res := &Result{Scenario: s.Name, Summary: s.Summary, Expect: s.Expect, Started: time.Now(), Checks: []Check{}}
	defer func() { res.Ended = time.Now() }()
	refuse := func(err error) *Result {
		res.Verdict, res.Reason = Errored, err.Error()
		return res
	}
	if err := o.Fill(); err != nil {
		return refuse(err)
	}
	if err := s.Possible(t); err != nil {
		return refuse(err)
	}
	f := &field{t: t, o: &o, pair: o.Pair, hold: max(o.Hold, s.Hold), led: ledger.New(), res: res}
	pairs := pairsOf(t)
	if f.pair == "" && len(pairs) > 0 {
		f.pair = pairs[0]
	}
	if !slices.Contains(pairs, f.pair) {
		return refuse(fmt.Errorf("no pair %q; there are %v", f.pair, pairs))
	}
	res.Pair = f.pair
	if s.Pairs > 1 {
		f.other = pairs[0]
		if f.other == f.pair {
			f.other = pairs[1]
		}
	}
	if s.Name == "random" {
		if res.Seed = o.Seed; res.Seed == 0 {
			res.Seed = rand.Uint64N(1 << 32)
		}
	}
	if s.Size > 0 {
		o.Size = s.Size
	}
	o.Sessions = max(o.Sessions, s.Sessions)
	defer f.report(ctx)()
	r := &run{field: f, s: s}
	err := r.all(ctx)
	err = errors.Join(err, r.takeHome(ctx))
	r.judge(err)
	return res
}

// report calls Progress until the function that it returns is called.
func (f *field) report(ctx context.Context) func() {
	if f.o.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			ok, refused, unknown := f.led.Counts()
			f.mu.Lock()
			p := Progress{f.res.Scenario, f.phase, time.Since(f.res.Started), f.o.For, ok + refused + unknown, ok, refused, unknown}
			f.mu.Unlock()
			f.o.Progress(p)
			_ = f.wait(ctx, 200*time.Millisecond)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// run is one drill under way.
type run struct {
	*field
	s        *Scenario
	access   *mailbox.Access
	marks    map[string]mailbox.Mark
	watch    *watch
	hurt     bool // faults began, so the load was steady
	finished bool // every check was made
}

func (r *run) enter(phase string) {
	r.mu.Lock()
	r.phase = phase
	r.mu.Unlock()
	r.event("phase: %s", phase)
}

// all goes through the phases. Every fault is taken back when it returns.
func (r *run) all(ctx context.Context) (err error) {
	r.enter("set up")
	if err := r.setUp(ctx); err != nil {
		return err
	}
	watching, stopWatch := context.WithCancel(ctx)
	sending, stopSend := context.WithCancel(ctx)
	var watchers, senders sync.WaitGroup
	defer func() {
		stopSend()
		stopWatch()
		senders.Wait()
		watchers.Wait()
	}()
	watchers.Go(func() {
		r.watch.run(watching, func(n string) {
			if n == "" {
				n = "nobody"
			}
			r.event("%s serves %s", n, r.pair)
		})
	})
	r.res.Load.From = time.Now()
	var sendErr error
	senders.Go(func() { sendErr = r.load.Send(sending, r.led) })
	senders.Go(func() { r.user.Run(sending) })
	senders.Go(func() { r.gather(sending, &senders) })
	broken := r.hurtIt(ctx)
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
	err = errors.Join(broken, r.backAll(undo))
	cancel()
	if ctx.Err() != nil || err != nil && !errors.Is(err, errBroken) {
		return errors.Join(err, context.Cause(ctx))
	}
	r.enter("settle")
	if err := r.wait(ctx, min(max(r.o.For*2/5, 2*time.Second), quietAtMost)); err != nil {
		return err
	}
	r.enter("drain")
	r.res.Load.To = time.Now()
	stopSend()
	senders.Wait()
	if sendErr != nil {
		return errors.Join(err, sendErr)
	}
	return errors.Join(err, r.check(ctx))
}

// gather has the crowd log in, one after the other.
func (r *run) gather(ctx context.Context, sessions *sync.WaitGroup) {
	for _, p := range r.crowd {
		sessions.Go(func() { p.Run(ctx) })
		if r.wait(ctx, joinEvery) != nil {
			return
		}
	}
}

// setUp waits until everything is well and notes where the mailboxes stand.
func (r *run) setUp(ctx context.Context) error {
	var others []User
	most := r.o.Users
	if most == 0 {
		most = max(maxUsers, r.s.Users)
	}
	for _, u := range r.t.Users() {
		switch {
		case u.Pair != r.pair:
		case len(r.users) < most:
			r.users = append(r.users, u)
		default:
			others = append(others, u)
		}
	}
	if len(r.users) == 0 {
		return fmt.Errorf("no user of %s is known", r.pair)
	}
	if len(r.users) < r.o.Users {
		return fmt.Errorf("%d users of %s are known, %d are wanted", len(r.users), r.pair, r.o.Users)
	}
	var smtp, imap []ledger.Door
	for _, n := range r.t.Nodes() {
		if n.Role == RoleRelay {
			smtp = append(smtp, ledger.Door{Name: n.Name, Addr: n.SMTP})
			imap = append(imap, ledger.Door{Name: n.Name, Addr: n.IMAPS})
		}
	}
	if len(smtp) == 0 {
		return errors.New("no relay is known")
	}
	r.access = &mailbox.Access{Doors: imap, TLS: r.t.TLS(), Dial: r.t.Dial, Timeout: readWithin}
	quick := *r.access
	quick.Timeout = probeWithin
	r.user = &mailbox.Prober{Access: &quick, User: r.mailUser(0), Every: 25 * time.Millisecond}
	for i := 1; i < r.o.Sessions; i++ {
		p := &mailbox.Prober{Access: &quick, User: r.mailUser(i % len(r.users)), Every: otherEvery, First: i}
		if p.Idle = r.s.Idle; p.Idle {
			p.Access = r.access
			if len(others) > 0 { // who gets no mail
				p.User = mailUser(&others[i%len(others)])
			}
		}
		r.crowd = append(r.crowd, p)
	}
	r.load = &ledger.Load{
		Run: "d" + strconv.FormatInt(time.Now().UnixNano(), 36), Senders: r.o.Senders, Rate: r.o.Rate, Doors: smtp, Size: r.o.Size,
		Timeout: sendWithin, Dial: r.t.Dial,
	}
	r.watch = newWatch(r.t, r.pair)
	var why string
	if !r.until(ctx, wellWithin, func() (ok bool) { why, ok = r.well(ctx); return ok }) {
		return errors.Join(context.Cause(ctx), fmt.Errorf("the cluster is not well before the drill: %s", why))
	}
	ctx, cancel := context.WithTimeout(ctx, markWithin)
	defer cancel()
	r.marks = map[string]mailbox.Mark{}
	for i, u := range r.users {
		r.load.Recipients = append(r.load.Recipients, u.Address)
		m, err := r.access.Mark(ctx, r.mailUser(i))
		if err != nil {
			return err
		}
		r.marks[u.Address] = m
	}
	return nil
}

func (r *run) mailUser(i int) mailbox.User { return mailUser(&r.users[i]) }

func mailUser(u *User) mailbox.User {
	return mailbox.User{Login: u.Login, Password: u.Password, Address: u.Address}
}

// hurtIt waits for a steady load and runs the scenario.
func (r *run) hurtIt(ctx context.Context) error {
	r.enter("steady load")
	if err := r.wait(ctx, min(max(r.o.For/5, time.Second), quietAtMost)); err != nil {
		return err
	}
	const enough = 5
	steady := r.until(ctx, 10*time.Second, func() bool {
		ok, _, _ := r.led.Counts()
		answers, _, _, _ := r.user.Answers()
		return ok >= enough && len(answers) >= enough
	})
	if !steady {
		ok, refused, unknown := r.led.Counts()
		answers, _, last, _ := r.user.Answers()
		return fmt.Errorf("no steady load before the fault: %d acknowledged, %d refused, %d unknown; %d answers by IMAP %s %v",
			ok, refused, unknown, len(answers), last, r.led.Refusals())
	}
	r.hurt = true
	r.enter("fault")
	return r.s.run(ctx, r.field)
}

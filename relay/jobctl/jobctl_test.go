package jobctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// attemptLog is one call of the agent.
type attemptLog struct {
	at   time.Time
	id   string
	hop  string
	to   []string
	done time.Time
}

// agent answers by a function, and keeps a log.
type agent struct {
	answer func(d *deliver.Delivery, r *mail.Recipient) deliver.Result
	takes  time.Duration

	mu     sync.Mutex
	log    []attemptLog
	active map[string]int
	most   map[string]int
}

func (a *agent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	hop := d.Recipients[0].NextHop
	e := attemptLog{at: time.Now(), id: d.Envelope.QueueID, hop: hop}
	out := make([]deliver.Result, len(d.Recipients))
	a.mu.Lock()
	if a.active == nil {
		a.active, a.most = map[string]int{}, map[string]int{}
	}
	a.active[hop]++
	a.active[""]++
	a.most[hop] = max(a.most[hop], a.active[hop])
	a.most[""] = max(a.most[""], a.active[""])
	a.mu.Unlock()
	if a.takes > 0 {
		select {
		case <-time.After(a.takes):
		case <-ctx.Done():
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.active[hop]--
	a.active[""]--
	for i := range d.Recipients {
		r := &d.Recipients[i]
		e.to = append(e.to, r.Address.Local)
		out[i] = a.answer(d, r)
	}
	e.done = time.Now()
	a.log = append(a.log, e)
	return out
}

// counts are the deliveries to hop under way now, and the most there were.
func (a *agent) counts(hop string) (now, most int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.active[hop], a.most[hop]
}

func (a *agent) attempts() []attemptLog {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.log)
}

// report is one call of the reporter.
type report struct {
	at    time.Time
	id    string
	what  string
	count int
	last  queue.Answer // of the first of them
}

type reporter struct {
	mu      sync.Mutex
	reports []report
	fail    int // calls that fail first
}

func (r *reporter) Report(_ context.Context, it *queue.Item, rcpts []queue.Recipient, msg []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail > 0 {
		r.fail--
		return errors.New("directory down")
	}
	r.reports = append(r.reports, report{time.Now(), it.ID(), rcpts[0].State.String(), len(rcpts), rcpts[0].Answer})
	if len(msg) == 0 {
		panic("report without the message")
	}
	return nil
}

func (r *reporter) all() []report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.reports)
}

type house struct {
	t    *testing.T
	fs   *faultfs.FS
	q    *queue.Queue
	c    *Controller
	a    *agent
	r    *reporter
	cfg  Config
	stop context.CancelFunc
	done chan struct{}
}

// in runs f with a controller in virtual time.
func in(t *testing.T, change func(*Config), f func(h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, fs: faultfs.New(1), a: &agent{answer: ok}, r: &reporter{}}
		h.cfg = Config{Agents: map[mail.Channel]deliver.Agent{mail.ChannelSMTP: h.a, mail.ChannelLMTP: h.a}, Reporter: h.r}
		if change != nil {
			change(&h.cfg)
		}
		h.start()
		defer func() { h.end() }()
		f(h)
	})
}

func (h *house) start() {
	q, err := queue.Open(queue.Config{Dir: "/q", FS: h.fs})
	if err != nil {
		h.t.Fatal(err)
	}
	h.q, h.cfg.Queue = q, q
	if h.c, err = New(h.cfg); err != nil {
		h.t.Fatal(err)
	}
	q.OnSubmit(h.c.Submitted)
	ctx, stop := context.WithCancel(context.Background())
	h.stop, h.done = stop, make(chan struct{})
	go func() {
		defer close(h.done)
		_ = h.c.Run(ctx)
	}()
	synctest.Wait()
}

func (h *house) end() {
	h.stop()
	<-h.done
	h.q.Close()
}

func ok(*deliver.Delivery, *mail.Recipient) deliver.Result {
	return deliver.Result{Outcome: deliver.Delivered, Code: 250, Status: mail.StatusOK}
}

func refuse(*deliver.Delivery, *mail.Recipient) deliver.Result {
	return deliver.Result{Outcome: deliver.Failed, Code: 550, Status: mail.StatusBadMailbox, Text: "no such user"}
}

func later(*deliver.Delivery, *mail.Recipient) deliver.Result {
	return deliver.Result{Outcome: deliver.Deferred, Code: 451, Status: mail.Status{4, 2, 0}, Text: "later"}
}

func busy(*deliver.Delivery, *mail.Recipient) deliver.Result {
	return deliver.Result{Outcome: deliver.Deferred, Busy: true, Status: mail.StatusNoQuorum}
}

func silent(*deliver.Delivery, *mail.Recipient) deliver.Result {
	return deliver.Result{Outcome: deliver.Deferred, Status: mail.StatusNoAnswer}
}

// submit queues a message; to is "local@hop".
func (h *house) submit(change func(*queue.Item), to ...string) string {
	h.t.Helper()
	it := &queue.Item{Envelope: mail.Envelope{QueueID: mail.NewQueueID(), RootID: "root", Origin: "o", Arrival: time.Now(), ReversePath: mail.Address{Local: "ann", Domain: "x.example"}}}
	for i, a := range to {
		addr, err := mail.ParseAddress(a, false)
		if err != nil {
			h.t.Fatal(err)
		}
		it.Recipients = append(it.Recipients, queue.Recipient{Recipient: mail.Recipient{
			Address: addr, Channel: mail.ChannelSMTP, NextHop: addr.Domain, Key: mail.NewDeliveryKey("o", it.Envelope.QueueID, fmt.Sprint(i)),
		}})
	}
	if change != nil {
		change(it)
	}
	if err := h.q.Submit(context.Background(), nil, it, []byte("message\r\n")); err != nil {
		h.t.Fatal(err)
	}
	return it.ID()
}

func (h *house) gone(id string) bool {
	_, err := h.q.Load(id)
	return errors.Is(err, queue.ErrNotFound)
}

func TestDelivered(t *testing.T) {
	in(t, nil, func(h *house) {
		id := h.submit(nil, "a@one.example", "b@one.example", "c@two.example")
		synctest.Wait()
		if got := h.a.attempts(); len(got) != 2 || !h.gone(id) {
			t.Errorf("attempts %+v, gone %v", got, h.gone(id))
		}
		if s := h.c.Status(); s.Tracked != 0 || len(s.Destinations) != 0 {
			t.Errorf("left in memory: %+v", s)
		}
	})
}

func gaps(log []attemptLog) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(log); i++ {
		out = append(out, log[i].at.Sub(log[i-1].at))
	}
	return out
}

// TestQuotaGrace is F44: what a full mailbox does not take waits, comes when there is
// room, and is returned with 5.2.2 after the grace time, sooner than other mail.
func TestQuotaGrace(t *testing.T) {
	var room atomic.Bool
	full := func(d *deliver.Delivery, r *mail.Recipient) deliver.Result {
		if room.Load() {
			return ok(d, r)
		}
		return deliver.Result{Outcome: deliver.Deferred, Code: 452, Status: mail.StatusOverQuota, Text: "Mailbox full"}
	}
	pair := func(it *queue.Item) { it.Recipients[0].Channel = mail.ChannelLMTP }
	in(t, func(c *Config) { c.QuotaGrace = 3 * day; c.Notices = []time.Duration{day} }, func(h *house) {
		h.a.answer = full
		waits := h.submit(pair, "a@pair1")
		time.Sleep(2 * day)
		if h.gone(waits) || len(h.r.all()) != 1 {
			t.Fatalf("within the grace time: gone %v, reports %+v", h.gone(waits), h.r.all())
		}
		room.Store(true)
		time.Sleep(day / 2)
		if !h.gone(waits) || len(h.r.all()) != 1 {
			t.Errorf("when there is room: gone %v, reports %+v", h.gone(waits), h.r.all())
		}
		room.Store(false)
		none, outside := h.submit(pair, "b@pair1"), h.submit(nil, "c@far.example")
		time.Sleep(3*day + 9*time.Hour)
		reports := h.r.all()
		last := reports[len(reports)-1]
		if !h.gone(none) || last.what != "failed" || last.last.Code != 552 || last.last.Status != (mail.Status{5, 2, 2}) {
			t.Errorf("after the grace time: gone %v, %+v", h.gone(none), last)
		}
		if h.gone(outside) {
			t.Error("a mailbox elsewhere has our grace time")
		}
	})
	// Without a time of its own it is that of other mail.
	in(t, nil, func(h *house) {
		h.a.answer = full
		id := h.submit(pair, "a@pair1")
		time.Sleep(11 * day)
		if h.gone(id) {
			t.Error("returned too soon")
		}
		time.Sleep(2 * day)
		if !h.gone(id) {
			t.Error("not returned")
		}
	})
}

// TestSchedule is mta.md 7.4, and 8.1: warnings at 3, 6, 9 days, return at 12.
func TestSchedule(t *testing.T) {
	for priority, want := range map[mail.Priority][]time.Duration{
		mail.Urgent:    minutes(30, 60, 60, 120, 120, 120, 240, 240),
		mail.Normal:    minutes(60, 120, 120, 240, 240, 240, 480, 480),
		mail.NonUrgent: minutes(120, 240, 240, 480, 480, 480, 960, 960),
	} {
		in(t, nil, func(h *house) {
			h.a.answer = later
			begin := time.Now()
			id := h.submit(func(it *queue.Item) { it.Envelope.Priority = priority }, "a@one.example")
			time.Sleep(13 * day)
			if got := gaps(h.a.attempts()); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
				t.Errorf("priority %d: gaps %v, want %v", priority, got, want)
			}
			reports := h.r.all()
			if len(reports) != 4 || !h.gone(id) {
				t.Fatalf("priority %d: reports %+v, gone %v", priority, reports, h.gone(id))
			}
			for i, days := range []int{3, 6, 9, 12} {
				what, age := "pending", reports[i].at.Sub(begin)
				if i == 3 {
					what = "timedout"
				}
				if reports[i].what != what || age < time.Duration(days)*day || age > time.Duration(days)*day+16*time.Hour {
					t.Errorf("priority %d: report %d is %s after %v", priority, i, reports[i].what, age)
				}
			}
		})
	}
}

func TestShortList(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = busy
		h.submit(func(it *queue.Item) { it.Recipients[0].Channel = mail.ChannelLMTP }, "a@pair1")
		time.Sleep(3 * time.Hour)
		got := gaps(h.a.attempts())
		want := []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute}
		if len(got) < 18 || !slices.Equal(got[:len(want)], want) {
			t.Errorf("gaps %v, want %v ...", got, want)
		}
		for i, g := range got[len(want):] {
			if g != time.Minute && g < time.Hour {
				t.Errorf("gap %d is %v", i, g)
			}
		}
		if last := got[len(got)-1]; last != time.Hour && last != 2*time.Hour {
			t.Errorf("not back on the normal schedule: %v", got)
		}
	})
}

// TestAfterThrough: what a transaction has tried goes on with its schedule.
func TestAfterThrough(t *testing.T) {
	in(t, nil, func(h *house) {
		begin := time.Now()
		h.submit(func(it *queue.Item) {
			it.Recipients[0].Attempts, it.Recipients[0].LastTry, it.Recipients[0].Busy = 1, begin, begin
			it.Recipients[1].Attempts, it.Recipients[1].LastTry = 1, begin
		}, "a@pair1", "b@pair2")
		time.Sleep(2 * time.Hour)
		log := h.a.attempts()
		if len(log) != 2 || log[0].at.Sub(begin) != 5*time.Second || log[1].at.Sub(begin) != time.Hour {
			t.Errorf("%+v", log)
		}
	})
}

func TestWake(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = busy
		h.submit(func(it *queue.Item) { it.Recipients[0].Channel = mail.ChannelLMTP }, "a@pair1")
		time.Sleep(10 * time.Minute)
		h.a.mu.Lock()
		h.a.answer = ok
		n := len(h.a.log)
		h.a.mu.Unlock()
		time.Sleep(2 * time.Second)
		h.c.Wake(mail.ChannelLMTP, "pair1")
		synctest.Wait()
		if got := len(h.a.attempts()) - n; got != 1 {
			t.Errorf("%d attempts after Wake", got)
		}
	})
}

func TestRefused(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = func(d *deliver.Delivery, r *mail.Recipient) deliver.Result {
			if r.Address.Local == "a" {
				return refuse(d, r)
			}
			return ok(d, r)
		}
		id := h.submit(nil, "a@one.example", "b@one.example")
		quiet := h.submit(func(it *queue.Item) { it.Recipients[0].Notify = mail.NotifyNever }, "a@one.example")
		null := h.submit(func(it *queue.Item) { it.Envelope.ReversePath = mail.Address{} }, "a@one.example")
		success := h.submit(func(it *queue.Item) { it.Recipients[0].Notify = mail.NotifySuccess }, "b@one.example")
		synctest.Wait()
		got := h.r.all()
		slices.SortFunc(got, func(a, b report) int { return len(a.what) - len(b.what) })
		if len(got) != 2 || got[0].id != id || got[0].what != "failed" || got[0].count != 1 || got[1].id != success || got[1].what != "delivered" {
			t.Errorf("reports %+v", got)
		}
		for _, id := range []string{id, quiet, null, success} {
			if !h.gone(id) {
				t.Errorf("%s is still there", id)
			}
		}
	})
}

// TestReportPutOff: a message stays until its report is made.
func TestReportPutOff(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer, h.r.fail = refuse, 3
		id := h.submit(nil, "a@one.example")
		time.Sleep(time.Second)
		if it, err := h.q.Load(id); err != nil || it.Recipients[0].State != queue.Failed {
			t.Fatalf("%+v %v", it, err)
		}
		time.Sleep(10 * time.Minute)
		if len(h.r.all()) != 1 || len(h.a.attempts()) != 1 || !h.gone(id) {
			t.Errorf("reports %+v, attempts %d, gone %v", h.r.all(), len(h.a.attempts()), h.gone(id))
		}
	})
}

func TestPartialFailureIsTriedAgainAtOnce(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = func(d *deliver.Delivery, r *mail.Recipient) deliver.Result {
			if r.Address.Local == "a" {
				return later(d, r)
			}
			return ok(d, r)
		}
		h.submit(nil, "a@one.example", "b@one.example")
		time.Sleep(50 * time.Minute)
		if got := h.a.attempts(); len(got) != 2 || got[1].at != got[0].at || len(got[1].to) != 1 {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Hour)
		if got := h.a.attempts(); len(got) != 3 {
			t.Errorf("%+v", got)
		}
	})
}

func TestConcurrency(t *testing.T) {
	in(t, func(c *Config) {
		c.Limits = map[mail.Channel]Limit{mail.ChannelSMTP: {Channel: 10, Destination: 4, Timeout: time.Minute}}
	}, func(h *house) {
		h.a.takes = time.Second
		for i := range 40 {
			h.submit(nil, "a@one.example")
			h.submit(nil, fmt.Sprintf("a@d%d.example", i))
		}
		time.Sleep(time.Hour)
		_, one := h.a.counts("one.example")
		_, all := h.a.counts("")
		log := h.a.attempts()
		if one != 4 || all != 10 || len(log) != 80 {
			t.Fatalf("at most %d of one, %d in all, %d attempts", one, all, len(log))
		}
		if took := log[79].done.Sub(log[0].at); took > 15*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestPriorityAndTurns(t *testing.T) {
	in(t, func(c *Config) {
		c.Limits = map[mail.Channel]Limit{mail.ChannelSMTP: {Channel: 1, Destination: 1, Timeout: time.Minute}}
	}, func(h *house) {
		h.a.takes = time.Second
		h.c.Pause(mail.ChannelSMTP, "")
		set := func(p mail.Priority) func(*queue.Item) {
			return func(it *queue.Item) { it.Envelope.Priority = p }
		}
		h.submit(set(mail.NonUrgent), "low@one.example")
		time.Sleep(time.Second)
		h.submit(set(mail.Normal), "mid@one.example")
		time.Sleep(time.Second)
		h.submit(set(mail.Urgent), "high@one.example")
		h.submit(set(mail.Normal), "mid2@one.example")
		h.submit(set(mail.NonUrgent), "other@two.example")
		if len(h.a.attempts()) != 0 {
			t.Error("paused channel delivers")
		}
		h.c.Resume(mail.ChannelSMTP, "")
		time.Sleep(time.Minute)
		var order []string
		for _, e := range h.a.attempts() {
			order = append(order, e.to[0])
		}
		if want := []string{"high", "other", "mid", "mid2", "low"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	})
}

// TestDeadDestination: it is probed by one, others go on, and its mail still
// grows old.
func TestDeadDestination(t *testing.T) {
	in(t, func(c *Config) {
		c.Limits = map[mail.Channel]Limit{mail.ChannelSMTP: {Channel: 20, Destination: 5, Timeout: time.Minute}}
	}, func(h *house) {
		h.a.takes = 30 * time.Second
		h.a.answer = func(d *deliver.Delivery, r *mail.Recipient) deliver.Result {
			if r.NextHop == "dead.example" {
				return silent(d, r)
			}
			return ok(d, r)
		}
		var ids []string
		for range 300 {
			ids = append(ids, h.submit(nil, "a@dead.example"))
		}
		time.Sleep(time.Hour)
		if n := len(h.a.attempts()); n > 20 {
			t.Errorf("%d attempts on a dead destination in an hour", n)
		}
		begin := time.Now()
		h.submit(nil, "a@live.example")
		time.Sleep(time.Minute)
		log := h.a.attempts()
		if last := log[len(log)-1]; last.hop != "live.example" && log[len(log)-2].hop != "live.example" || last.at.Sub(begin) > time.Minute {
			t.Errorf("live destination waits: %+v", log[len(log)-2:])
		}
		time.Sleep(14 * day)
		for _, id := range ids {
			if !h.gone(id) {
				t.Fatalf("%s is still there", id)
			}
		}
		if n := len(h.r.all()); n != 4*300 {
			t.Errorf("%d reports, want %d", n, 4*300)
		}
	})
}

// TestDestinationRecovers: after the first answer everything goes at once.
func TestDestinationRecovers(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = silent
		for range 100 {
			h.submit(nil, "a@dead.example")
		}
		time.Sleep(3 * time.Hour)
		h.a.mu.Lock()
		h.a.answer = ok
		h.a.mu.Unlock()
		time.Sleep(9 * time.Hour)
		if s := h.q.Stats(); s.Messages != 0 {
			t.Errorf("%d messages left", s.Messages)
		}
	})
}

// TestWindow: with more mail than memory, everything is still delivered, and
// one destination does not fill the window (F32).
func TestWindow(t *testing.T) {
	in(t, func(c *Config) {
		c.MaxTracked = 100
		c.Limits = map[mail.Channel]Limit{mail.ChannelSMTP: {Channel: 4, Destination: 2, Timeout: time.Minute}}
	}, func(h *house) {
		h.a.takes = 100 * time.Millisecond
		h.a.answer = func(d *deliver.Delivery, r *mail.Recipient) deliver.Result {
			if r.NextHop == "dead.example" {
				return silent(d, r)
			}
			return ok(d, r)
		}
		for range 300 {
			h.submit(nil, "a@dead.example")
		}
		begin := time.Now()
		for i := range 300 {
			h.submit(nil, fmt.Sprintf("a@d%d.example", i%50))
		}
		if n := h.c.Status().Tracked; n > 160 {
			t.Errorf("%d jobs in memory", n)
		}
		time.Sleep(5 * time.Minute)
		live := 0
		for _, e := range h.a.attempts() {
			if e.hop != "dead.example" {
				live++
				if e.done.Sub(begin) > 4*time.Minute {
					t.Fatalf("delivered after %v", e.done.Sub(begin))
				}
			}
		}
		if live != 300 {
			t.Errorf("%d of 300 delivered", live)
		}
		time.Sleep(14 * day)
		if s := h.q.Stats(); s.Messages != 0 {
			t.Errorf("%d messages left", s.Messages)
		}
		if n := len(h.r.all()); n < 300 {
			t.Errorf("%d reports", n)
		}
	})
}

// TestRestart: the schedule is on the disk.
func TestRestart(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = later
		h.submit(nil, "a@one.example")
		time.Sleep(90 * time.Minute) // attempts at 0 and 60 minutes
		h.end()
		h.start()
		time.Sleep(20 * time.Minute)
		if n := len(h.a.attempts()); n != 2 {
			t.Errorf("%d attempts", n)
		}
		time.Sleep(80 * time.Minute)
		if n := len(h.a.attempts()); n != 3 {
			t.Errorf("%d attempts", n)
		}
	})
}

// TestWrongClock: times in the future and a past of years return nothing early.
func TestWrongClock(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = later
		old := h.submit(func(it *queue.Item) { it.Envelope.Arrival = time.Now().Add(-3650 * day) }, "a@one.example")
		future := h.submit(func(it *queue.Item) {
			it.Recipients[0].Next = time.Now().Add(3650 * day)
			it.Recipients[0].Attempts = 1
		}, "b@one.example")
		time.Sleep(90 * time.Minute)
		if h.gone(old) {
			t.Error("returned after two attempts")
		}
		time.Sleep(8 * time.Hour)
		n := 0
		for _, e := range h.a.attempts() {
			if e.id == future {
				n++
			}
		}
		if n == 0 {
			t.Error("a time in ten years is believed")
		}
	})
}

func TestPoison(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = func(d *deliver.Delivery, r *mail.Recipient) deliver.Result {
			if r.Address.Local == "poison" {
				panic("parser")
			}
			return ok(d, r)
		}
		bad := h.submit(nil, "poison@one.example")
		var good []string
		for range 5 {
			good = append(good, h.submit(nil, "a@one.example"))
		}
		time.Sleep(time.Second)
		for _, id := range good {
			if !h.gone(id) {
				t.Error("a good message waits")
			}
		}
		time.Sleep(time.Hour)
		it, err := h.q.Load(bad)
		if err != nil || !it.Held || it.Crashes != 3 || it.Reason == "" {
			t.Fatalf("%+v %v", it, err)
		}
		time.Sleep(20 * day) // held mail is left alone
		if len(h.r.all()) != 0 {
			t.Errorf("reports %+v", h.r.all())
		}
		h.a.mu.Lock()
		h.a.answer = ok
		h.a.mu.Unlock()
		if err := h.c.Release(bad); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !h.gone(bad) {
			t.Error("released message was not delivered")
		}
	})
}

// TestCrashes: what was being worked on when the process died is counted, runs
// alone, and is held at the third time.
func TestCrashes(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.takes = time.Hour
		var ids []string
		for range 3 {
			ids = append(ids, h.submit(nil, "a@one.example"))
		}
		for crash := 1; crash <= 3; crash++ {
			time.Sleep(time.Minute)
			if n, _ := h.a.counts("one.example"); (crash == 1) != (n == 3) || n == 0 {
				t.Errorf("run %d: %d at once", crash, n)
			}
			// A crash: the file of active messages stays as it is.
			crashed := h.fs.Crash(1)
			h.end()
			h.fs = crashed
			h.start()
		}
		held, counts := 0, []int{}
		for _, id := range ids {
			it, err := h.q.Load(id)
			if err != nil {
				t.Fatal(err)
			}
			counts = append(counts, it.Crashes)
			if it.Held {
				held++
			}
		}
		if held > 1 {
			t.Errorf("%d held, crashes %v", held, counts)
		}
	})
}

// TestCrashCountedOnce: a message that is on its way to many when the process
// dies has died once.
func TestCrashCountedOnce(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.takes = time.Hour
		id := h.submit(nil, "a@one.example", "b@two.example", "c@three.example", "d@four.example")
		time.Sleep(time.Minute)
		crashed := h.fs.Crash(1)
		h.end()
		h.fs = crashed
		h.start()
		if it, err := h.q.Load(id); err != nil || it.Crashes != 1 || it.Held {
			t.Errorf("%v: %d crashes, held %v", err, it.Crashes, it.Held)
		}
	})
}

func TestOperator(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = later
		id := h.submit(nil, "bob@one.example")
		other := h.submit(nil, "eve@two.example")
		time.Sleep(time.Minute)
		if err := h.c.Retry(id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(h.a.attempts()); n != 3 {
			t.Errorf("%d attempts after Retry", n)
		}
		if err := h.c.Hold(id, "looks odd"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Hour)
		for _, e := range h.a.attempts()[3:] {
			if e.id == id {
				t.Error("held message was tried")
			}
		}
		list := func(q Query) (ids []string, more bool) {
			items, more, err := h.c.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range items {
				ids = append(ids, it.ID())
			}
			return ids, more
		}
		all := []string{id, other}
		slices.Sort(all)
		for name, tt := range map[string]struct {
			q    Query
			want []string
			more bool
		}{
			"all": {Query{}, all, false}, "held": {Query{State: "held"}, []string{id}, false}, "deferred": {Query{State: "deferred"}, []string{other}, false},
			"address": {Query{Address: "EVE@two.example"}, []string{other}, false}, "sender": {Query{Address: "ann@x.example"}, all, false},
			"page": {Query{Limit: 1}, all[:1], true}, "next page": {Query{Limit: 1, After: all[0]}, all[1:], false}, "nobody": {Query{Address: "x@y"}, nil, false},
		} {
			if got, more := list(tt.q); !slices.Equal(got, tt.want) || more != tt.more {
				t.Errorf("%s: %v %v, want %v", name, got, more, tt.want)
			}
		}
		if it, err := h.c.Show(id); err != nil || it.Reason != "looks odd" || !h.c.Next(it).IsZero() {
			t.Errorf("Show: %+v %v", it, err)
		}
		if err := h.c.Delete(id); err != nil || !h.gone(id) {
			t.Errorf("Delete: %v", err)
		}
		if err := h.c.Return(other); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := h.r.all(); len(got) != 1 || got[0].what != "returned" || !h.gone(other) {
			t.Errorf("Return: %+v", got)
		}
		for name, f := range map[string]func(string) error{"retry": h.c.Retry, "release": h.c.Release, "delete": h.c.Delete, "return": h.c.Return} {
			if err := f(mail.NewQueueID()); !errors.Is(err, queue.ErrNotFound) {
				t.Errorf("%s of an unknown id: %v", name, err)
			}
		}
	})
}

func TestHoldChannel(t *testing.T) {
	in(t, nil, func(h *house) {
		re := &agent{answer: func(*deliver.Delivery, *mail.Recipient) deliver.Result {
			return deliver.Result{Outcome: deliver.Passed}
		}}
		h.c.cfg().Agents[mail.ChannelReprocess] = re
		id := h.submit(func(it *queue.Item) { it.Recipients[0].Channel = mail.ChannelHold }, "a@one.example")
		time.Sleep(30 * day)
		it, err := h.q.Load(id)
		if err != nil || len(h.r.all()) != 0 || StateOf(it) != "held" {
			t.Fatalf("%v, reports %v", err, h.r.all())
		}
		if err := h.c.Release(id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(re.attempts()) != 1 || !h.gone(id) {
			t.Errorf("attempts %v, gone %v", re.attempts(), h.gone(id))
		}
	})
}

// TestSetRules: other rules hold for what is in the queue already, from the next
// attempt on.
func TestSetRules(t *testing.T) {
	limits := func(n int) map[mail.Channel]Limit { return map[mail.Channel]Limit{mail.ChannelSMTP: {Channel: n}} }
	every := func(d time.Duration) map[mail.Priority][]time.Duration {
		return map[mail.Priority][]time.Duration{mail.Normal: {d}}
	}
	t.Run("schedule and lifetime", func(t *testing.T) {
		in(t, func(c *Config) { c.Backoff = every(4 * time.Hour) }, func(h *house) {
			h.a.answer = later
			id := h.submit(nil, "a@one.example")
			time.Sleep(time.Minute)
			h.c.SetRules(Rules{Backoff: every(10 * time.Minute), Lifetime: 5 * time.Hour, Notices: []time.Duration{4*time.Hour + 5*time.Minute}})
			time.Sleep(6 * time.Hour)
			want := append([]time.Duration{4 * time.Hour}, slices.Repeat([]time.Duration{10 * time.Minute}, 6)...)
			if got := gaps(h.a.attempts()); !slices.Equal(got, want) {
				t.Errorf("tried after %v, want %v", got, want)
			}
			if r := h.r.all(); len(r) != 2 || r[0].what != "pending" || r[1].what != "timedout" || !h.gone(id) {
				t.Errorf("reports %+v, gone %v", r, h.gone(id))
			}
		})
	})
	t.Run("limits", func(t *testing.T) {
		in(t, func(c *Config) { c.Limits = limits(1) }, func(h *house) {
			h.a.takes = 5 * time.Minute
			for range 20 {
				h.submit(nil, "a@one.example")
			}
			for _, n := range []int{1, 3, 2} {
				h.c.SetRules(Rules{Limits: limits(n)})
				time.Sleep(7 * time.Minute)
				if now, _ := h.a.counts(""); now != n {
					t.Errorf("%d at once, want %d", now, n)
				}
			}
		})
	})
}

// TestStop: an attempt that is cut short by the end of the process is not a
// failure.
func TestStop(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.takes, h.a.answer = time.Hour, silent
		id := h.submit(nil, "a@one.example")
		time.Sleep(time.Second)
		h.end()
		h.start()
		it, err := h.q.Load(id)
		if err != nil || it.Recipients[0].Attempts != 0 || it.Crashes != 0 {
			t.Errorf("%+v %v", it, err)
		}
	})
}

func TestDamagedMessage(t *testing.T) {
	in(t, nil, func(h *house) {
		h.c.Pause(mail.ChannelSMTP, "")
		id := h.submit(nil, "a@one.example")
		if err := h.fs.Remove("/q/" + id[:1] + "/" + id + ".msg"); err != nil {
			t.Fatal(err)
		}
		h.c.Resume(mail.ChannelSMTP, "")
		synctest.Wait()
		if s := h.q.Stats(); s.Damaged != 1 || len(h.a.attempts()) != 0 {
			t.Errorf("%+v, %d attempts", s, len(h.a.attempts()))
		}
	})
}

// TestOldest: the oldest message of each channel, as long as it waits.
func TestOldest(t *testing.T) {
	in(t, nil, func(h *house) {
		h.a.answer = silent
		if o := h.c.Oldest(); len(o) != 0 {
			t.Errorf("of an empty queue: %v", o)
		}
		began := time.Now()
		first := h.submit(nil, "a@one.example")
		time.Sleep(time.Hour)
		h.submit(nil, "b@one.example")
		time.Sleep(time.Second)
		o := h.c.Oldest()
		if len(o) != 1 {
			t.Fatalf("%v", o)
		}
		for channel, at := range o {
			if at.Sub(began).Abs() > time.Second {
				t.Errorf("%s: %v, sent at %v", channel, at, began)
			}
		}
		if err := h.c.Delete(first); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for channel, at := range h.c.Oldest() {
			if at.Sub(began.Add(time.Hour)).Abs() > time.Second {
				t.Errorf("%s: %v after the first was deleted", channel, at)
			}
		}
	})
}

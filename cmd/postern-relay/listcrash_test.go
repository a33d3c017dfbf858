package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/relay/bounce"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/reprocess"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/jobctl"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

// names is a directory in memory: users and lists of example.test.
type names struct {
	directory.Directory
	of map[string]*directory.Entry // by local part
}

var ourDomain = &directory.Domain{Name: "example.test"}

func (d names) Domain(_ context.Context, name string) (*directory.Domain, error) {
	if name != ourDomain.Name {
		return nil, directory.ErrNotFound
	}
	return ourDomain, nil
}

func (d names) Lookup(_ context.Context, _ *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if e := d.of[a.Local]; e != nil {
		return &directory.Answer{Entries: []*directory.Entry{e}}, nil
	}
	return nil, directory.ErrNotFound
}

func newNames() names {
	d := names{of: map[string]*directory.Entry{}}
	user := func(uid string, forward ...string) string {
		address := uid + "@example.test"
		e := &directory.Entry{Kind: directory.User, DN: "uid=" + uid, UID: uid, Mailbox: address, Mail: address, MailHost: "pair1.int", DeliveryOptions: []string{"mailbox"}}
		if len(forward) > 0 {
			e.DeliveryOptions, e.Forwarding = []string{"forward"}, forward
		}
		d.of[uid] = e
		return address
	}
	d.of["all"] = &directory.Entry{Kind: directory.Group, DN: "cn=all", Mail: "all@example.test", MemberAddresses: []string{
		"a1@out.test", user("bob"), "c3@out.test", "d4@far.test", user("eve", "away@far.test"), "f6@out.test", user("joe"), "z9@out.test",
	}}
	user("fwd", "moved@far.test")
	return d
}

// received is what has come to whom, by the try of the client that it is of.
type received struct {
	mu    sync.Mutex // guards what follows
	sent  map[string]int
	boxes map[mail.DeliveryKey]bool // a pair knows a delivery that is repeated
}

// try finds the client's try that a message is of, reports on it included.
func try(body []byte) string {
	_, rest, _ := bytes.Cut(body, []byte("X-Try: "))
	n, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(n)
}

// Deliver is that of the pairs, and of the world. Nobody is called gone there.
func (r *received) Deliver(_ context.Context, d *deliver.Delivery) []deliver.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	var body []byte
	for _, b := range d.Body {
		body = append(body, b...)
	}
	results := deliver.All(d, deliver.Result{Outcome: deliver.Delivered, Code: 250, Status: mail.StatusOK})
	for i := range d.Recipients {
		to := &d.Recipients[i]
		switch {
		case to.Address.Local == "gone":
			results[i] = deliver.Result{Outcome: deliver.Failed, Code: 550, Status: mail.StatusBadMailbox, Text: "User unknown"}
			continue
		case to.Channel == mail.ChannelLMTP && r.boxes[to.Key]:
			continue
		}
		r.boxes[to.Key] = true
		r.sent[try(body)+" "+to.Address.String()]++
	}
	return results
}

// walk lets a life end before and after each delivery.
type walk struct {
	mu   *sync.Mutex // guards life
	life *life
	next deliver.Agent
}

func (w walk) moment() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.life.moment()
}

func (w walk) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	if !w.moment() {
		return deliver.All(d, deliver.Result{Outcome: deliver.Unknown, Err: errDead})
	}
	res := w.next.Deliver(ctx, d)
	if !w.moment() {
		return deliver.All(d, deliver.Result{Outcome: deliver.Unknown, Err: errDead})
	}
	return res
}

// Probe says that the pair answers.
func (walk) Probe(context.Context, string) error { return nil }

// mailing is one message to a list, to a user who forwards and to somebody who is
// gone, and all that becomes of it.
type mailing struct {
	t     *testing.T
	x     *expand.Expander
	got   *received
	tries int
	told  int             // the try of which the client has heard 250, 0: none yet
	twice map[string]bool // may come once more: the reply was not on the disk when the relay ended
}

// live runs a relay from its start to an empty queue, or to its end, and reports
// whether it is still alive.
func (m *mailing) live(l *life) bool {
	t := m.t
	var mu sync.Mutex
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dead := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return l.dead()
	}
	q, err := queue.Open(queue.Config{Dir: "/q", FS: l.fs})
	if err != nil {
		if !dead() {
			t.Fatal(err)
		}
		return false
	}
	defer func() { _ = q.Close() }() // fails on a dead disk
	if err := m.look(q); err != nil {
		if !dead() {
			t.Fatal(err)
		}
		return false
	}
	agent := walk{&mu, l, m.got}
	door, err := transaction.New(transaction.Config{Hostname: "relay", Origin: "relay", Domain: "example.test", Expander: m.x, Queue: q, Pairs: agent})
	must(err)
	defer door.Close()
	again, err := reprocess.New(reprocess.Config{Door: door, Expander: m.x})
	must(err)
	reports, err := bounce.New(bounce.Config{Hostname: "relay", Origin: "relay", Door: door})
	must(err)
	jobs, err := jobctl.New(jobctl.Config{Queue: q, Reporter: reports, Agents: map[mail.Channel]deliver.Agent{
		mail.ChannelLMTP: agent, mail.ChannelSMTP: agent, mail.ChannelReprocess: again,
	}})
	must(err)
	q.OnSubmit(jobs.Submitted)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = jobs.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if m.told == 0 && !dead() {
		m.tries++
		if m.send(door) && !dead() {
			m.told = m.tries
		}
	}
	for range 100 {
		synctest.Wait()
		if dead() {
			return false
		}
		if q.Stats().Messages == 0 {
			return true
		}
		time.Sleep(time.Minute)
	}
	_ = q.Scan(ctx, func(it *queue.Item) error {
		t.Errorf("stays in the queue: %s, %d recipients, the first %+v, made of %+v", it.ID(), len(it.Recipients), it.Recipients[0], it.Parent)
		return nil
	})
	t.Fatalf("%+v", q.Stats())
	return false
}

// look notes what has been sent although the queue does not know it: only the
// peer's reply would tell, and that did not get to the disk.
func (m *mailing) look(q *queue.Queue) error {
	return q.Scan(m.t.Context(), func(it *queue.Item) error {
		body, err := q.Body(it, nil)
		for i := range it.Recipients {
			r := &it.Recipients[i]
			what := try(body) + " " + r.Address.String()
			if r.Channel == mail.ChannelSMTP && r.State == queue.Pending && m.got.sent[what] > 0 {
				m.twice[what] = true
			}
		}
		return err
	})
}

func (m *mailing) send(door *transaction.Acceptor) bool {
	ctx := m.t.Context()
	from := mail.Address{Local: "ann", Domain: "example.net"}
	tx, err := door.Begin(ctx, mail.Envelope{ReversePath: from}, transaction.Source{Protocol: "ESMTP", MayRelay: true})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, to := range []mail.Address{{Local: "all", Domain: "example.test"}, {Local: "fwd", Domain: "example.test"}, {Local: "gone", Domain: "out.test"}} {
		if err := tx.Rcpt(ctx, mail.Recipient{Address: to}); err != nil {
			m.t.Fatal(err)
		}
	}
	return tx.Data(ctx, transaction.Content{Bytes: fmt.Appendf(nil, "X-Try: %d\r\nSubject: hi\r\n\r\nbody\r\n", m.tries)}).OK()
}

// check compares what was received with what may have been.
func (m *mailing) check(what string) {
	m.t.Helper()
	all := strings.Fields("a1@out.test bob@example.test c3@out.test d4@far.test away@far.test f6@out.test joe@example.test z9@out.test moved@far.test ann@example.net")
	for try := 1; try <= m.tries; try++ {
		for _, to := range all {
			name := fmt.Sprint(try, " ", to)
			n := m.got.sent[name]
			delete(m.got.sent, name)
			most := 1
			if m.twice[name] {
				most = 2
			}
			if n > most || n == 0 && try == m.told {
				m.t.Errorf("%s: try %d, of which the client heard 250: %v: %d for %s, at most %d", what, try, try == m.told, n, to, most)
			}
		}
	}
	if len(m.got.sent) > 0 || m.told == 0 {
		m.t.Errorf("%s: %v besides, told %d", what, m.got.sent, m.told)
	}
}

// TestListCrash ends a relay after each operation on its disk, and before and
// after each call to a pair or to the world, while it takes a message, expands a
// list in pieces and forwards, delivers and sends the pieces, and reports to the
// sender on one who is gone. It goes on with what was written, and with what a
// power cut leaves, and the client tries again if it has heard nothing. Whatever
// happens, every recipient gets the message once, and the sender one report; but
// for those outside whose host's reply did not get to the disk: SMTP cannot tell.
func TestListCrash(t *testing.T) {
	x, err := expand.New(expand.Config{
		Directory: newNames(), Pair: expand.Pairs("pair1"), ListLimit: 1, ChunkSize: 3,
		SRS: &expand.SRS{Domain: "example.test", Keys: [][]byte{bytes.Repeat([]byte("k"), 16)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	begin := func(t *testing.T) *mailing {
		return &mailing{t: t, x: x, got: &received{sent: map[string]int{}, boxes: map[mail.DeliveryKey]bool{}}, twice: map[string]bool{}}
	}
	whole := &life{fs: faultfs.New(1)}
	synctest.Test(t, func(t *testing.T) {
		m := begin(t)
		if !m.live(whole) || len(m.got.sent) != 10 {
			t.Fatalf("the script does not work without a crash: %v", m.got.sent)
		}
		m.check("no crash")
	})
	states := uint64(3)
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		states = 12
	}
	n, repeated := 0, 0
	run := func(end life, state uint64) {
		synctest.Test(t, func(t *testing.T) {
			l := end
			l.fs = faultfs.New(1)
			if l.diskN > 0 {
				l.fs.CrashAfter(l.diskN)
			}
			m := begin(t)
			m.live(&l)
			what := fmt.Sprintf("ended after operation %d or moment %d, state %d", l.diskN, l.netN, state)
			disk := l.fs
			if state > 0 { // else killed, with all that was written
				disk = l.fs.Crash(state - 1)
			}
			disk.CrashAfter(1 << 40)
			if !m.live(&life{fs: disk}) {
				t.Fatal(what)
			}
			m.check(what)
			n++
			repeated += len(m.twice)
		})
	}
	for state := range states + 1 {
		for at := 1; at <= whole.fs.Ops(); at++ {
			run(life{diskN: at}, state)
		}
		for at := 1; at <= whole.net; at++ {
			run(life{netN: at}, state)
		}
	}
	t.Logf("%d ends; %d deliveries outside that only the lost reply told of", n, repeated)
	if n < 400 || repeated == 0 {
		t.Error("the test tests nothing")
	}
}

package transaction

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
	"github.com/postern-mail/postern/shared/smtp"
)

// asking is names with people who opt in: "ok_f0_f1@p1" asks for f0 and f1.
type asking struct{ names }

func (a asking) Rcpt(ctx context.Context, env *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	final, err := a.names.Rcpt(ctx, env, r)
	for i := range final {
		final[i].OptIn = strings.Split(final[i].Address.Local, "_")[1:]
	}
	return final, err
}

// script is a filter that says the same of every message.
type script struct {
	name    string
	verdict policy.Verdict
	add     string                   // field on top of the message
	not     func(string) *smtp.Reply // at RCPT
	refused error                    // at Open
	late    error                    // at MAIL
	asked   [][]string               // recipients of each message
	seen    []string                 // messages
	open    int
}

func (f *script) Name() string { return f.name }

func (f *script) Open(context.Context, *policy.Client) (policy.Session, error) {
	if f.refused != nil {
		return nil, f.refused
	}
	f.open++
	return &scripted{script: f}, nil
}

type scripted struct {
	*script
	to    []string
	begun bool
}

func (s *scripted) Hello(context.Context, *policy.Client) error { return nil }

func (s *scripted) Mail(_ context.Context, _ *policy.Client, m *policy.Mail) error {
	if s.begun {
		panic("MAIL in a message")
	}
	s.begun, s.to = s.late == nil, nil
	return s.late
}

func (s *scripted) Rcpt(_ context.Context, to mail.Address) error {
	if s.not != nil {
		if r := s.not(to.String()); r != nil {
			return r
		}
	}
	s.to = append(s.to, to.String())
	return nil
}

func (s *scripted) Message(_ context.Context, segments [][]byte) policy.Verdict {
	msg := ""
	for _, b := range segments {
		msg += string(b)
	}
	s.asked, s.seen, s.begun = append(s.asked, s.to), append(s.seen, msg), false
	v := s.verdict
	if s.add != "" && v.Reply == nil && !v.Discard {
		v.Message = []byte(s.add + msg)
	}
	return v
}

func (s *scripted) Reset() { s.begun = false }

func (s *scripted) Close() { s.open-- }

// ledger is a house whose every copy is written down: where it is, and what
// stands before the text of it.
type ledger struct {
	*house
	copies []string
}

func newLedger(t testing.TB, change ...func(*Config)) *ledger {
	l := &ledger{house: &house{}}
	cfg := Config{Hostname: "relay.example", Origin: "relay1", Domain: "p1", Expander: asking{}, Queue: &l.q, Pairs: l}
	for _, c := range change {
		c(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Acceptor = a
	return l
}

func (l *ledger) Probe(context.Context, string) error { return nil }

func (l *ledger) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	results := l.b.Deliver(ctx, d)
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	for i := range d.Recipients {
		if results[i].Outcome.Done() {
			l.copies = append(l.copies, d.Recipients[i].Address.String()+fields(bytes.Join(d.Body, nil)))
		}
	}
	return results
}

// fields are what filters have put before text, without the trace.
func fields(msg []byte) (out string) {
	top, ok := bytes.CutSuffix(msg, []byte(text))
	if !ok {
		return fmt.Sprintf(" %q", msg)
	}
	for f := range message.Fields(top) {
		if string(f.Name) != "Received" {
			out += " " + string(f.Name)
		}
	}
	return out
}

// kept is every copy: those with pairs, and those in the queue.
func (l *ledger) kept() []string {
	out := slices.Clone(l.copies)
	for n, it := range l.q.items {
		for i := range it.Recipients {
			r := &it.Recipients[i]
			c := r.State.String() + " " + r.Address.String() + fields([]byte(l.q.bodies[n]))
			if it.Held {
				c = "held " + it.Reason + ": " + c
			}
			if it.Envelope.ReversePath != ann.ReversePath {
				c += " from " + it.Envelope.ReversePath.String()
			}
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

// followers are fs as they follow a session.
func followers(t *testing.T, fs ...*script) (out []Follower) {
	for _, f := range fs {
		s, err := f.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Follower{f.name, s})
	}
	return out
}

// TestFollow: what becomes of a message by the word of filters of all mail.
func TestFollow(t *testing.T) {
	no, later := &smtp.Reply{Code: 550, Status: mail.Status{5, 7, 9}, Text: "Spam"}, &smtp.Reply{Code: 451, Status: mail.Status{4, 7, 1}, Text: "Later"}
	other := mail.Address{Local: "other", Domain: "b.example"}
	archive, gone := mail.Address{Local: "ok-archive", Domain: "p2"}, mail.Address{Local: "ok", Domain: "p1"}
	nobody, away := mail.Address{Local: "none", Domain: "p1"}, mail.Address{Local: "down", Domain: "p1"}
	for name, tt := range map[string]struct {
		a, b   script
		rcpts  []string
		want   string
		stored []string
	}{
		"nothing":   {script{}, script{}, []string{"ok@p1"}, "250", []string{"ok@p1"}},
		"in order":  {script{add: "A: 1\r\n"}, script{add: "B: 1\r\n"}, []string{"ok@p1"}, "250", []string{"ok@p1 B A"}},
		"refused":   {script{verdict: policy.Verdict{Reply: no}}, script{}, []string{"ok@p1"}, "550 5.7.9 Spam", nil},
		"later":     {script{}, script{verdict: policy.Verdict{Reply: later}}, []string{"ok@p1"}, "451 4.7.1 Later", nil},
		"discarded": {script{verdict: policy.Verdict{Discard: true}}, script{}, []string{"ok@p1", "x@out.example"}, "250", nil},
		"held":      {script{verdict: policy.Verdict{Hold: "odd"}}, script{add: "B: 1\r\n"}, []string{"ok@p1"}, "250", []string{"held odd: pending ok@p1 B"}},
		"sender":    {script{verdict: policy.Verdict{ReversePath: &other}}, script{}, []string{"x@out.example"}, "250", []string{"pending x@out.example from other@b.example"}},
		"added":     {script{verdict: policy.Verdict{Add: []mail.Address{archive}}}, script{}, []string{"ok@p1"}, "250", []string{"ok-archive@p2", "ok@p1"}},
		"removed":   {script{verdict: policy.Verdict{Remove: []mail.Address{gone}}}, script{}, []string{"ok@p1", "ok@p2"}, "250", []string{"ok@p2"}},
		"by two ways": {
			script{verdict: policy.Verdict{Remove: []mail.Address{gone}}}, script{}, []string{"ok@p1", "twice@p9"}, "250", []string{"ok@p1", "ok@p2"},
		},
		"all removed":  {script{verdict: policy.Verdict{Remove: []mail.Address{gone}}}, script{}, []string{"ok@p1"}, "250", nil},
		"added nobody": {script{verdict: policy.Verdict{Add: []mail.Address{nobody}}}, script{}, []string{"ok@p1"}, "250", []string{"ok@p1"}},
		"added, directory away": {
			script{verdict: policy.Verdict{Add: []mail.Address{away}}}, script{}, []string{"ok@p1"}, "451 4.4.3", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			defer l.Close()
			tt.a.name, tt.b.name = "a", "b"
			src := client
			src.Filters = followers(t, &tt.a, &tt.b)
			if got := l.send(t, src, ann, text, tt.rcpts...).Error(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer %q, want %s", got, tt.want)
			}
			if got := l.kept(); !slices.Equal(got, tt.stored) {
				t.Errorf("kept %q, want %q", got, tt.stored)
			}
		})
	}
}

// TestFollowRefused: a filter refuses MAIL and RCPT, and hears of recipients that
// are accepted otherwise only.
func TestFollowRefused(t *testing.T) {
	no := &smtp.Reply{Code: 451, Status: mail.Status{4, 7, 1}, Text: "Greylisted"}
	l := newLedger(t)
	defer l.Close()
	src := client
	src.Filters = followers(t, &script{name: "a", late: no})
	if _, err := l.Begin(t.Context(), ann, src); !errors.Is(err, error(no)) {
		t.Errorf("MAIL: %v", err)
	}
	grey := &script{name: "b", not: func(to string) *smtp.Reply {
		if to == "ok2@p1" {
			return no
		}
		return nil
	}}
	src.Filters = followers(t, grey)
	tx, err := l.Begin(t.Context(), ann, src)
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{"ok@p1": "", "ok2@p1": "451 4.7.1 Greylisted", "none@p1": "No such user", "x@out.example": ""} {
		a, _ := mail.ParseAddress(to, true)
		err := tx.Rcpt(t.Context(), mail.Recipient{Address: a})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", to, err, want)
		}
	}
	if r := tx.Data(t.Context(), Content{Bytes: []byte(text)}); !r.OK() {
		t.Fatal(r)
	}
	slices.Sort(grey.asked[0])
	if want := []string{"ok@p1", "x@out.example"}; !slices.Equal(grey.asked[0], want) {
		t.Errorf("the filter knows of %q", grey.asked[0])
	}
	if got, want := l.kept(), []string{"ok@p1", "pending x@out.example"}; !slices.Equal(got, want) {
		t.Errorf("kept %q", got)
	}
}

// TestOptIn: any filters, asked for by anybody, that say anything: everybody who
// opted in gets what his filters make of it, nobody else hears of them, and nobody
// gets two copies or none.
func TestOptIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		no, later := &smtp.Reply{Code: 550, Status: mail.Status{5, 7, 9}, Text: "Spam"}, &smtp.Reply{Code: 451, Status: mail.Status{4, 7, 1}, Text: "Later"}
		inside := rapid.Bool().Draw(t, "internal")
		var filters []Filter
		var scripts []*script
		for i := range rapid.IntRange(1, 3).Draw(t, "filters") {
			f := &script{name: fmt.Sprintf("f%d", i)}
			switch rapid.IntRange(0, 6).Draw(t, "verdict") {
			case 0, 1:
				f.add = fmt.Sprintf("F%d: 1\r\n", i)
			case 2:
				f.verdict.Reply = no
			case 3:
				f.verdict.Reply = later
			case 4:
				f.verdict.Discard = true
			case 5:
				f.verdict.Hold = "odd"
			}
			if rapid.Bool().Draw(t, "refuses some") {
				f.not = func(to string) *smtp.Reply {
					if strings.Contains(to, "7") {
						return no
					}
					return nil
				}
			}
			scripts = append(scripts, f)
			filters = append(filters, Filter{Filter: f, Words: []string{f.name}, Some: Some(rapid.IntRange(0, 2).Draw(t, "some"))})
		}
		l := newLedger(nil, func(c *Config) { c.Filters = filters })
		defer l.Close()
		var rcpts []mail.Recipient
		for i := range rapid.IntRange(1, 10).Draw(t, "recipients") {
			name := fmt.Sprintf("ok%d", i)
			for n := range filters {
				if rapid.Bool().Draw(t, "asks") {
					name += fmt.Sprintf("_f%d", n)
				}
			}
			domain := rapid.SampledFrom([]string{"p1", "p2", "out.example"}).Draw(t, "domain")
			rcpts = append(rcpts, mail.Recipient{Address: mail.Address{Local: name, Domain: domain}})
		}

		// What is to come of it.
		var want []string
		temporary, refused, dropped := false, 0, 0
		type loss struct {
			to, top string
			some    Some
			by      string
		}
		var losses []loss
		for _, r := range rcpts {
			top, held, done := "", "", false
			for n, f := range scripts {
				if done || !strings.Contains(r.Address.Local, "_"+f.name) {
					continue
				}
				switch {
				case f.not != nil && f.not(r.Address.String()) != nil, f.verdict.Reply == no:
					losses, done = append(losses, loss{r.Address.String(), top, filters[n].Some, f.name}), true
					refused++
				case f.verdict.Reply == later:
					temporary, done = true, true
				case f.verdict.Discard:
					done = true
					dropped++
				case f.verdict.Hold != "":
					held = "odd"
				case f.add != "":
					top = " F" + f.name[1:] + top
				}
			}
			state := ""
			if held != "" || inside || r.Address.Domain == "out.example" {
				state = "pending "
			}
			if held != "" {
				state = "held odd: " + state
			}
			if !done {
				want = append(want, state+r.Address.String()+top)
			}
		}
		_ = dropped
		code := "250"
		switch {
		case temporary:
			want, code = nil, "451"
		case len(want) == 0 && refused > 0 && !inside:
			code = "550"
		default:
			told := 0
			for _, x := range losses {
				switch x.some {
				case Notify:
					want = append(want, "failed "+x.to+"*")
					told++
				case Hold:
					want = append(want, "held refused by filter "+x.by+": Spam: pending "+x.to+"*")
				}
			}
			if inside && told > 0 && told == len(want) { // refused as a whole
				want, code = nil, "550"
			}
		}

		var got *smtp.Reply
		if inside {
			err := l.Inject(context.Background(), Injection{
				Envelope: mail.Envelope{QueueID: mail.NewQueueID(), RootID: "root", Origin: "relay1", ReversePath: ann.ReversePath},
				Parent:   queue.Parent{ID: "parent"}, Recipients: rcpts, Client: "mx.example.net[192.0.2.1]",
			}, []byte(text))
			got = &smtp.Reply{Code: 250}
			if err != nil {
				got = smtp.ReplyFor(err)
			}
		} else {
			tx, err := l.Begin(context.Background(), ann, client)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rcpts {
				if err := tx.Rcpt(context.Background(), r); err != nil {
					t.Fatal(err)
				}
			}
			got = tx.Data(context.Background(), Content{Bytes: []byte(text)})
		}
		if !strings.HasPrefix(got.Error(), code) {
			t.Fatalf("answer %v, want %s", got, code)
		}
		kept := l.kept()
		for i, k := range kept { // with which octets a refusal is reported is not promised
			if refusal := strings.HasPrefix(k, "failed ") || strings.HasPrefix(k, "held refused"); refusal {
				to, _, _ := strings.Cut(k[strings.LastIndex(k, "ok"):], " ")
				kept[i] = k[:strings.LastIndex(k, "ok")] + to + "*"
			}
		}
		slices.Sort(kept)
		slices.Sort(want)
		if !slices.Equal(kept, want) {
			t.Fatalf("answer %v\nkept %q\nwant %q", got, kept, want)
		}
		ids := map[string]bool{}
		for _, it := range l.q.items {
			if ids[it.ID()] || it.Envelope.RootID == "" || it.Envelope.Origin != "relay1" {
				t.Fatalf("%+v", it.Envelope)
			}
			ids[it.ID()] = true
		}
		for _, f := range scripts {
			if f.open != 0 {
				t.Fatalf("%s: %d sessions left", f.name, f.open)
			}
			for _, to := range slices.Concat(f.asked...) {
				if !strings.Contains(to, "_"+f.name) {
					t.Fatalf("%s hears of %s", f.name, to)
				}
			}
		}
	})
}

// TestOptInAdds: who is added by a filter that somebody opted in to gets one copy, as
// all others do, if the message has him already.
func TestOptInAdds(t *testing.T) {
	f := &script{name: "f0", add: "F0: 1\r\n", verdict: policy.Verdict{Add: []mail.Address{{Local: "ok2", Domain: "p1"}, {Local: "ok3", Domain: "p2"}}}}
	l := newLedger(t, func(c *Config) { c.Filters = []Filter{{Filter: f, Words: []string{"f0"}}} })
	defer l.Close()
	if r := l.send(t, client, ann, text, "ok1_f0@p1", "ok2@p1"); !r.OK() {
		t.Fatal(r)
	}
	if got, want := l.kept(), []string{"ok1_f0@p1 F0", "ok2@p1", "ok3@p2 F0"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

// TestLoopIsJudged: what is held because it is in a loop may be released, so that it
// has been judged for those who want that.
func TestLoopIsJudged(t *testing.T) {
	spam := &script{name: "f0", add: "F0: 1\r\n"}
	l := newLedger(t, func(c *Config) {
		c.HoldLoops, c.MaxReceived, c.Filters = true, 1, []Filter{{Filter: spam, Words: []string{"f0"}}}
	})
	defer l.Close()
	if r := l.send(t, client, ann, "Received: x\r\nReceived: y\r\n"+text, "ok1_f0@p1", "ok2@p1"); !r.OK() {
		t.Fatal(r)
	}
	const why = "held mail loop: 2 Received fields, 0 of this relay: pending "
	if got, want := l.kept(), []string{why + "ok1_f0@p1 F0", why + "ok2@p1"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

// fickle is asking, and people who have changed their mind.
type fickle struct {
	asking
	changed bool
}

func (f fickle) Rcpt(ctx context.Context, env *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	final, err := f.asking.Rcpt(ctx, env, r)
	for i := range final {
		switch local := final[i].Address.Local; {
		case !f.changed:
		case local == "ok1_f0":
			final[i].OptIn = nil
		case local == "ok0", local == "ok4_f0_f1":
			final[i].OptIn = []string{"f1"}
		}
	}
	return final, err
}

// TestPartsCrash: what a list leads to is divided by its members' filters, one of
// which says something else each time, and the power is cut at each operation of the
// disk: when it has been made again everybody is in one message, once. Nobody is
// forgotten either when some have opted in or out meanwhile.
func TestPartsCrash(t *testing.T) {
	const parent = "0parent0000000"
	key := mail.NewDeliveryKey("relay1", parent, "list")
	run := func(fs *faultfs.FS, seed int) (err error) {
		q, err := queue.Open(queue.Config{Dir: "/q", FS: fs})
		if err != nil {
			return err
		}
		defer q.Close()
		if err = q.Scan(context.Background(), func(*queue.Item) error { return nil }); err != nil {
			return err
		}
		it, err := q.Load(parent)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			it = &queue.Item{Envelope: mail.Envelope{QueueID: parent, RootID: parent, Origin: "relay1"}, Recipients: []queue.Recipient{
				{Recipient: mail.Recipient{Address: mail.Address{Local: "list", Domain: "p1"}, Channel: mail.ChannelReprocess, Key: key}},
			}}
			if err = q.Submit(context.Background(), nil, it, []byte(text)); err != nil {
				return err
			}
		case err != nil:
			return err
		}
		moody := &script{name: "f0", add: fmt.Sprintf("F0: %d\r\n", seed)}
		switch seed % 4 {
		case 1:
			moody.verdict.Reply = &smtp.Reply{Code: 550, Status: mail.Status{5, 7, 9}, Text: "Spam"}
		case 2:
			moody.add = ""
		case 3:
			moody.verdict.Hold = "odd"
		}
		steady := &script{name: "f1", add: "F1: 1\r\n"}
		a, err := New(Config{
			Hostname: "relay.example", Origin: "relay1", Expander: fickle{changed: seed >= 8}, Queue: q,
			Filters: []Filter{{Filter: moody, Words: []string{"f0"}}, {Filter: steady, Words: []string{"f1"}}},
		})
		if err != nil {
			return err
		}
		defer a.Close()
		in := Injection{
			Envelope: mail.Envelope{QueueID: "0child00000000", RootID: parent, Origin: "relay1", ReversePath: ann.ReversePath},
			Parent:   queue.Parent{ID: parent, Key: key},
		}
		for _, name := range members {
			in.Recipients = append(in.Recipients, mail.Recipient{Address: mail.Address{Local: name, Domain: "p1"}})
		}
		if err = a.Inject(context.Background(), in, []byte(text)); err != nil {
			return err
		}
		return q.Remove(it, true)
	}
	whole := faultfs.New(1)
	if err := run(whole, 0); err != nil {
		t.Fatal(err)
	}
	states := 0
	for at := 1; at <= whole.Ops(); at++ {
		for seed := range 16 {
			fs := faultfs.New(1)
			fs.CrashAfter(at)
			accepted := run(fs, 0) == nil
			disk := fs.Crash(uint64(seed))
			states++
			if !accepted {
				if err := run(disk, seed); err != nil {
					t.Fatalf("cut after %d, state %d: %v", at, seed, err)
				}
			}
			q, err := queue.Open(queue.Config{Dir: "/q", FS: disk})
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]int{}
			err = q.Scan(context.Background(), func(it *queue.Item) error {
				for i := range it.Recipients {
					found[it.Recipients[i].Address.Local]++
				}
				return nil
			})
			q.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range members {
				if n := found[name]; n == 0 || n > 1 && seed < 8 {
					t.Errorf("cut after %d, state %d: %s is in %d messages", at, seed, name, found[name])
				}
			}
		}
	}
	t.Logf("%d states", states)
}

var members = []string{"ok0", "ok1_f0", "ok2_f0", "ok3_f1", "ok4_f0_f1", "list"}

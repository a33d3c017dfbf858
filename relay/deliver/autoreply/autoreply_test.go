package autoreply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door keeps what is injected.
type door struct {
	in   []transaction.Injection
	body [][]byte
	err  error
}

func (d *door) Inject(ctx context.Context, in transaction.Injection, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.err != nil {
		return d.err
	}
	d.in, d.body = append(d.in, in), append(d.body, bytes.Clone(body))
	return nil
}

// pairs is a pair in memory that answers whatever it is told to.
type pairs struct {
	got     []deliver.Delivery
	outcome deliver.Outcome
	answer  bool
	claimed []string       // root ids of answers
	claim   deliver.Result // of each claim
}

func (p *pairs) Claim(_ context.Context, env *mail.Envelope, _ *mail.AutoreplyClaim) deliver.Result {
	p.claimed = append(p.claimed, env.RootID)
	return p.claim
}

func (p *pairs) Probe(context.Context, string) error { return nil }

func (p *pairs) Deliver(_ context.Context, d *deliver.Delivery) []deliver.Result {
	p.got = append(p.got, *d)
	out := make([]deliver.Result, len(d.Recipients))
	for i, r := range d.Recipients {
		out[i] = deliver.Result{Outcome: p.outcome, Answer: p.answer && r.Autoreply != nil, Text: r.Mailbox}
	}
	return out
}

func yes() *pairs { return &pairs{outcome: deliver.Delivered, answer: true} }

func newAgent(t testing.TB, p Pairs, change ...func(*Config)) (*Agent, *door) {
	t.Helper()
	cfg := Config{Pairs: p}
	for _, c := range change {
		c(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{}
	a.Use(d)
	return a, d
}

var (
	ann = mail.Address{Local: "ann", Domain: "example.net"}
	bob = mail.Address{Local: "bob", Domain: "example.test"}
)

func reply() *mail.Autoreply {
	return &mail.Autoreply{
		Mode: mail.AutoreplyReply, From: bob, Me: []mail.Address{bob, {Local: "Bobby", Domain: "Example.test"}},
		Text: "Away.\nBack on Monday.\n", Timeout: time.Hour,
	}
}

const sample = "To: Bob <bob@example.test>\r\nFrom: ann@example.net\r\nSubject: hi\r\nMessage-ID: <m1@example.net>\r\n\r\nthe body\r\n"

// message is a delivery of text, from ann, to bob; root tells messages apart.
func msg(root, text string, a *mail.Autoreply) *deliver.Delivery {
	return &deliver.Delivery{
		Envelope: &mail.Envelope{ReversePath: ann, QueueID: root, RootID: root, Origin: "relay1", Arrival: time.Unix(1700000000, 0)},
		Recipients: []mail.Recipient{{
			Address: bob, Mailbox: "bob@example.test", Channel: mail.ChannelLMTP, NextHop: "pair1",
			Key: mail.NewDeliveryKey("relay1", root, "bob@example.test"), Autoreply: a,
		}},
		Body: [][]byte{[]byte("Received: here\r\n"), []byte(text)},
	}
}

// TestWhoIsAnswered: each message is delivered; who may not be answered is not
// even asked about.
func TestWhoIsAnswered(t *testing.T) {
	with := func(field string) string { return field + "\r\n" + sample }
	to := func(fields string) string {
		return fields + "From: ann@example.net\r\nSubject: hi\r\n\r\nbody\r\nTo: bob@example.test\r\n"
	}
	type delivery = deliver.Delivery
	for name, tt := range map[string]struct {
		text   string
		change func(d *delivery)
		asked  bool
	}{
		"an ordinary message":     {sample, nil, true},
		"null reverse-path":       {sample, func(d *delivery) { d.Envelope.ReversePath = mail.Address{} }, false},
		"a report":                {sample, func(d *delivery) { d.Report = true }, false},
		"by a list of ours":       {sample, func(d *delivery) { d.Recipients[0].ListName = "all@example.test" }, false},
		"forwarded":               {sample, func(d *delivery) { d.Recipients[0].Via = []string{"b@example.test"} }, true},
		"nothing to say":          {sample, func(d *delivery) { d.Recipients[0].Autoreply.Text = "" }, false},
		"from the person":         {sample, func(d *delivery) { d.Envelope.ReversePath = mail.Address{Local: "BOBBY", Domain: "example.test"} }, false},
		"Auto-Submitted":          {with("Auto-Submitted: auto-replied"), nil, false},
		"Auto-Submitted unknown":  {with("AUTO-SUBMITTED: of-some-kind; x=y"), nil, false},
		"Auto-Submitted no":       {with("Auto-Submitted: No (typed)"), nil, true},
		"Auto-Submitted twice":    {with("Auto-Submitted: no\r\nAuto-Submitted: auto-generated"), nil, false},
		"Precedence bulk":         {with("Precedence: Bulk"), nil, false},
		"Precedence list":         {with("precedence:\r\n list"), nil, false},
		"Precedence junk":         {with("Precedence: junk"), nil, false},
		"Precedence first-class":  {with("Precedence: first-class"), nil, true},
		"List-Id":                 {with("List-Id: <x.example>"), nil, false},
		"a new list field":        {with("list-whatever: x"), nil, false},
		"Listing":                 {with("Listing: x"), nil, true},
		"spam":                    {with("X-Spam-Flag: YES"), nil, false},
		"spam, with a score":      {with("X-Spam-Status: Yes, score=9"), nil, false},
		"no spam":                 {with("X-Spam-Status: No, score=1\r\nX-Spam-Flag: NO"), nil, true},
		"another's wish":          {with("X-Auto-Response-Suppress: DR, OOF"), nil, false},
		"another's other wish":    {with("X-Auto-Response-Suppress: DR"), nil, true},
		"in the body only":        {sample + "Precedence: bulk\r\n", nil, true},
		"Cc":                      {to("To: x@example.net\r\nCc: y@x.example,\r\n \"B\" <BOB@Example.TEST>\r\n"), nil, true},
		"Resent-To":               {to("Resent-To: bobby@example.test\r\n"), nil, true},
		"Resent-Cc":               {to("To: x@example.net\r\nResent-Cc: g: bobby@example.test;\r\n"), nil, true},
		"two To fields":           {to("To: x@example.net\r\nTo: bob@example.test\r\n"), nil, true},
		"Bcc":                     {to("To: x@example.net\r\n"), nil, false},
		"Bcc, and the field":      {to("Bcc: bob@example.test\r\n"), nil, false},
		"undisclosed recipients":  {to("To: undisclosed-recipients:;\r\n"), nil, false},
		"the name is no address":  {to("To: \"bob@example.test\" <x@example.net>\r\n"), nil, false},
		"a comment is none":       {to("To: x@example.net (bob@example.test)\r\n"), nil, false},
		"the header has no end":   {strings.TrimSuffix(sample, "\r\nthe body\r\n"), nil, true},
		"the header is too long":  {with("X-Long: " + strings.Repeat("x", 255<<10) + "\r\nX-Longer: " + strings.Repeat("x", 9<<10)), nil, false},
		"the body is long":        {sample + strings.Repeat("x\r\n", 200<<10), nil, true},
		"nobody has an autoreply": {sample, func(d *delivery) { d.Recipients[0].Autoreply = nil }, false},
	} {
		p := yes()
		a, out := newAgent(t, p)
		d := msg("root", tt.text, reply())
		if tt.change != nil {
			tt.change(d)
		}
		res := a.Deliver(t.Context(), d)
		if len(p.got) != 1 || len(p.got[0].Recipients) != 1 || res[0].Outcome != deliver.Delivered {
			t.Errorf("%s: not delivered: %+v", name, res)
			continue
		}
		if asked := p.got[0].Recipients[0].Autoreply != nil; asked != tt.asked || len(out.in) != map[bool]int{true: 1}[tt.asked] {
			t.Errorf("%s: asked %v, want %v; %d answers", name, asked, tt.asked, len(out.in))
		}
	}
}

func TestSenders(t *testing.T) {
	for local, want := range map[string]bool{
		"ann": true, "MAILER-DAEMON": false, "owner-list": false, "list-request": false, "LISTSERV": false, "list-owner": false,
		"bounces+ann=x": false, "list-bounces+7": false, "no-reply": false, "majordomo": false, "requester": true, "owner": false,
		"ann+request": true, "downer": true, "list-bounces-x=y.example": true,
	} {
		if got := robot(mail.Address{Local: local, Domain: "x.example"}) == ""; got != want {
			t.Errorf("%s: answered %v, want %v", local, got, want)
		}
	}
}

// TestDecision: the pair's word and the outcome decide.
func TestDecision(t *testing.T) {
	for name, tt := range map[string]struct {
		p    pairs
		want int
	}{
		"yes":                      {pairs{outcome: deliver.Delivered, answer: true}, 1},
		"no":                       {pairs{outcome: deliver.Delivered}, 0},
		"deferred":                 {pairs{outcome: deliver.Deferred}, 0},
		"a word without an answer": {pairs{outcome: deliver.Unknown, answer: true}, 0},
		"failed":                   {pairs{outcome: deliver.Failed}, 0},
	} {
		a, out := newAgent(t, &tt.p)
		res := a.Deliver(t.Context(), msg("root", sample, reply()))
		if len(out.in) != tt.want || res[0].Outcome != tt.p.outcome {
			t.Errorf("%s: %d answers, %+v", name, len(out.in), res)
		}
	}
}

// TestOnly: what is only to be answered goes to the pair while there is a
// question, and is done otherwise.
func TestOnly(t *testing.T) {
	p := yes()
	a, out := newAgent(t, p)
	d := msg("root", "Precedence: bulk\r\n"+sample, reply())
	d.Recipients = append(d.Recipients, d.Recipients[0], d.Recipients[0])
	for i := range d.Recipients {
		again := *reply()
		d.Recipients[i].Autoreply, d.Recipients[i].Mailbox = &again, fmt.Sprint("u", i)
	}
	d.Recipients[1].Autoreply.Only = true
	d.Recipients[2].Autoreply = nil
	res := a.Deliver(t.Context(), d)
	if len(p.got) != 1 || len(p.got[0].Recipients) != 2 || res[0].Text != "u0" || res[2].Text != "u2" {
		t.Fatalf("%+v\n%+v", p.got, res)
	}
	if res[1].Outcome != deliver.Delivered || res[1].Answer || len(out.in) != 0 || d.Recipients[0].Autoreply == nil {
		t.Errorf("%+v, %d answers", res, len(out.in))
	}
	d.Recipients = d.Recipients[1:2]
	if res := a.Deliver(t.Context(), d); len(p.got) != 1 || res[0].Outcome != deliver.Delivered {
		t.Errorf("alone: %+v, %d asked", res, len(p.got))
	}
	d.Body = [][]byte{[]byte(sample)}
	if a.Deliver(t.Context(), d); len(p.got) != 2 || !p.got[1].Recipients[0].Autoreply.Only || len(out.in) != 1 {
		t.Errorf("%d asked, %d answers", len(p.got), len(out.in))
	}
}

// sent counts what leaves by a channel.
type sent struct{ ids []string }

func (s *sent) Deliver(_ context.Context, d *deliver.Delivery) []deliver.Result {
	s.ids = append(s.ids, d.Envelope.QueueID)
	return deliver.All(d, deliver.Result{Outcome: deliver.Relayed, Status: mail.StatusOK})
}

// TestTwoRelays: two relays, one memory. It is the fake pair of lmtptest; the
// real one is tested with the programs.
func TestTwoRelays(t *testing.T) {
	s, err := lmtptest.Start(nil, lmtptest.Claims)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	table := new(route.Table)
	table.Update(route.Node{Name: "n0", Pair: "pair1", Alive: true, Serving: true, Addr: map[route.Service]string{route.LMTP: s.Addr}})
	both := &door{}
	out := &sent{}
	var relays [2]*Agent
	for i := range relays {
		l, err := lmtp.New(lmtp.Config{Hello: "relay.example", Routes: table})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		relays[i], _ = newAgent(t, l)
		relays[i].Use(both)
	}
	leave := func(relay int, answers ...int) {
		for _, n := range answers {
			in := &both.in[n]
			d := &deliver.Delivery{Envelope: &in.Envelope, Recipients: in.Recipients, Body: [][]byte{both.body[n]}}
			for range 2 { // the second attempt is as good as the first
				if res := relays[relay].Gate(out).Deliver(t.Context(), d); !res[0].Outcome.Done() {
					t.Errorf("%+v", res)
				}
			}
		}
	}
	changed, echo, later := reply(), reply(), reply()
	changed.Text, later.Text = "Away for longer.\n", "Away for ever.\n"
	echo.Mode = mail.AutoreplyEcho
	for i, tt := range []struct {
		relay int
		root  string
		a     *mail.Autoreply
		want  int // answers that have left so far
	}{
		{0, "q1", reply(), 1},
		{1, "q2", reply(), 1},
		{0, "q1", reply(), 1}, // the same delivery repeated
		{1, "q1", reply(), 1}, // by the other relay
		{1, "q3", changed, 2}, // another text
		{0, "q4", echo, 3},    // every message
		{1, "q5", echo, 4},
		{1, "q5", echo, 4},
	} {
		before := len(both.in)
		if res := relays[tt.relay].Deliver(t.Context(), msg(tt.root, sample, tt.a)); res[0].Outcome != deliver.Delivered {
			t.Fatalf("%d: %+v", i, res)
		}
		for n := range both.in[before:] {
			leave(tt.relay, before+n)
		}
		if len(out.ids) != 2*tt.want {
			t.Errorf("%d: %d answers have left, want %d", i, len(out.ids)/2, tt.want)
		}
	}
	// Both have queued one before either has left: the first to leave is sent.
	for relay, root := range []string{"q6", "q7", "q6"} {
		relays[relay%2].Deliver(t.Context(), msg(root, sample, later))
	}
	n := len(both.in)
	if both.in[n-1].Envelope.QueueID != both.in[n-3].Envelope.QueueID || !bytes.Equal(both.body[n-1], both.body[n-3]) {
		t.Error("the repeated answer is another one")
	}
	before := len(out.ids)
	leave(1, n-2)
	leave(0, n-3, n-1)
	if got := out.ids[before:]; len(got) != 2 || got[0] != both.in[n-2].Envelope.QueueID {
		t.Errorf("%q have left", got)
	}
}

// TestGate: what is no answer is not asked about; while the pair does not
// answer the answer waits, and nothing is known of its destination.
func TestGate(t *testing.T) {
	for name, tt := range map[string]struct {
		claim    *mail.AutoreplyClaim
		res      deliver.Result
		asked    int
		left     int
		outcome  deliver.Outcome
		notAsked bool
	}{
		"no answer":  {nil, deliver.Result{}, 0, 1, deliver.Relayed, false},
		"granted":    {&mail.AutoreplyClaim{}, deliver.Result{Outcome: deliver.Delivered, Answer: true}, 1, 1, deliver.Relayed, false},
		"refused":    {&mail.AutoreplyClaim{}, deliver.Result{Outcome: deliver.Delivered}, 1, 0, deliver.Delivered, true},
		"pair away":  {&mail.AutoreplyClaim{}, deliver.Result{Outcome: deliver.Deferred, Answer: true}, 1, 0, deliver.Deferred, true},
		"no reply":   {&mail.AutoreplyClaim{}, deliver.Result{Outcome: deliver.Unknown}, 1, 0, deliver.Deferred, true},
		"no account": {&mail.AutoreplyClaim{}, deliver.Result{Outcome: deliver.Failed}, 1, 0, deliver.Deferred, true},
	} {
		p, out := &pairs{outcome: deliver.Relayed, claim: tt.res}, &sent{}
		a, _ := newAgent(t, p)
		for kind, agent := range map[string]deliver.Agent{"gate": a.Gate(out), "pairs": a} {
			d := msg("root", sample, nil)
			d.Envelope.Claim = tt.claim
			res := agent.Deliver(t.Context(), d)[0]
			left := len(out.ids) + len(p.got)
			if res.Outcome != tt.outcome || res.NotAsked != tt.notAsked || left != tt.left || len(p.claimed) != tt.asked {
				t.Errorf("%s, %s: %+v, %d left, %d claimed", name, kind, res, left, len(p.claimed))
			}
			p.got, p.claimed, out.ids = nil, nil, nil
		}
	}
}

// away is a pair that does not answer.
type away struct{ *pairs }

func (away) Claim(ctx context.Context, _ *mail.Envelope, _ *mail.AutoreplyClaim) deliver.Result {
	<-ctx.Done()
	return deliver.Result{Outcome: deliver.Unknown, Err: ctx.Err()}
}

// TestGateEnds: an answer whose pair is silent is soon out of the way, and tried
// again soon.
func TestGateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAgent(t, away{yes()})
		d := msg("root", sample, nil)
		d.Envelope.Claim = &mail.AutoreplyClaim{}
		began := time.Now()
		res := a.Gate(&sent{}).Deliver(t.Context(), d)[0]
		if took := time.Since(began); took != claimTime || res.Outcome != deliver.Deferred || !res.Busy {
			t.Errorf("after %v: %+v", took, res)
		}
	})
}

func TestInjection(t *testing.T) {
	p := yes()
	a, out := newAgent(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	d := msg("root", sample, reply())
	cancel() // the client's deadline is not the answer's
	a.Deliver(ctx, d)
	if len(out.in) != 1 {
		t.Fatal("no answer")
	}
	in := out.in[0]
	env := in.Envelope
	if !env.ReversePath.IsNull() || env.QueueID != env.RootID || len(env.QueueID) != 26 || env.Origin != "relay1" || in.Report {
		t.Errorf("%+v", in)
	}
	if len(in.Recipients) != 1 || in.Recipients[0].Address != ann || in.Recipients[0].Notify != mail.NotifyNever || in.Recipients[0].Autoreply != nil {
		t.Errorf("%+v", in.Recipients)
	}
	if c := env.Claim; c == nil || c.Pair != "pair1" || c.Mailbox != "bob@example.test" || c.Hash != reply().Query(d.Envelope).Hash || c.Period != time.Hour {
		t.Errorf("claim %+v", c)
	}
	// A door that is shut loses the answer and nothing else.
	out.err = errors.New("full")
	if res := a.Deliver(t.Context(), msg("other", sample, reply())); res[0].Outcome != deliver.Delivered {
		t.Errorf("%+v", res)
	}
	out.err = nil
	a.Deliver(t.Context(), msg("other", sample, reply())) // repeated under the same key
	if len(out.in) != 2 {
		t.Errorf("%d answers", len(out.in))
	}
}

// TestBoundsPerHour: of one person, and to one sender; what is not answered
// does not count.
func TestBoundsPerHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := yes()
		a, out := newAgent(t, p, func(c *Config) { c.PerHour = 3 })
		n := 0
		send := func(sender, mailbox string, count int) (answered int) {
			before := len(out.in)
			for range count {
				n++
				d := msg(fmt.Sprint("q", n), sample, reply())
				d.Envelope.ReversePath.Local, d.Recipients[0].Mailbox = sender, mailbox
				a.Deliver(t.Context(), d)
			}
			return len(out.in) - before
		}
		p.answer = false
		send("ann", "bob", 10)
		p.answer = true
		if got := []int{send("ann", "bob", 10), send("eva", "bob", 10), send("ann", "max", 10), send("eva", "max", 2)}; !slices.Equal(got, []int{3, 0, 0, 2}) {
			t.Errorf("answered %v", got)
		}
		last := p.got[len(p.got)-3]
		if last.Recipients[0].Autoreply != nil {
			t.Error("asked although it would not be answered")
		}
		time.Sleep(time.Hour)
		if got := send("ann", "bob", 10); got != 3 {
			t.Errorf("answered %d in the next hour", got)
		}
		if len(a.limit.count) != 2 {
			t.Errorf("%d counted", len(a.limit.count))
		}
	})
}

// TestSetRules: rules hold for what is delivered from then on, and what was
// answered this hour counts.
func TestSetRules(t *testing.T) {
	a, d := newAgent(t, yes(), func(c *Config) { c.PerHour = 2 })
	n := 0
	answered := func(text string, r *mail.Autoreply) bool {
		before := len(d.in)
		n++
		a.Deliver(t.Context(), msg(fmt.Sprint("root", n), text, r))
		return len(d.in) > before
	}
	for i, want := range []bool{true, true, false} {
		if answered(sample, reply()) != want {
			t.Errorf("message %d of two an hour: answered is %v", i+1, !want)
		}
	}
	a.SetRules(Rules{PerHour: 3})
	for i, want := range []bool{true, false} {
		if answered(sample, reply()) != want {
			t.Errorf("message %d after three an hour: answered is %v", i+1, !want)
		}
	}
	const spam = "X-Ours: yes\r\n" + sample
	a.SetRules(Rules{PerHour: 100})
	if !answered(spam, reply()) {
		t.Error("not answered because of a field that says nothing")
	}
	a.SetRules(Rules{PerHour: 100, Spam: []string{"X-Ours"}})
	if answered(spam, reply()) || !answered("X-Spam: yes\r\n"+sample, reply()) {
		t.Error("the fields that say spam are not those of now")
	}
	echo := reply()
	echo.Mode = mail.AutoreplyEcho
	echoes := func() bool {
		if !answered(sample, echo) {
			t.Fatal("no echo")
		}
		return bytes.Contains(d.body[len(d.body)-1], []byte("the body"))
	}
	if !echoes() {
		t.Error("the body does not come back")
	}
	a.SetRules(Rules{PerHour: 100, MaxContent: 10})
	if echoes() {
		t.Error("the body comes back although it is too long now")
	}
}

package reprocess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// door keeps what is queued, by id.
type door struct {
	in     map[string]transaction.Injection
	bodies map[string]string
	order  []string
	fail   error
}

func newDoor() *door {
	return &door{in: map[string]transaction.Injection{}, bodies: map[string]string{}}
}

func (d *door) Inject(_ context.Context, in transaction.Injection, body []byte) error {
	if d.fail != nil {
		return d.fail
	}
	id := in.Envelope.QueueID
	if _, ok := d.in[id]; !ok {
		d.order = append(d.order, id)
	}
	d.in[id], d.bodies[id] = in, string(body)
	return nil
}

func address(s string) mail.Address {
	if s == "" {
		return mail.Address{}
	}
	a, err := mail.ParseAddress(s, true)
	if err != nil {
		panic(err)
	}
	return a
}

// answers is an expander that says what the local part says.
type answers struct{}

func (answers) Again(_ context.Context, _ *mail.Envelope, r mail.Recipient, _ []byte, _ func(expand.Step)) (*expand.Next, error) {
	switch r.Address.Local {
	case "gone", "postmaster":
		return nil, &mail.Error{Op: "expand", Status: mail.StatusBadMailbox, Reply: "No such list"}
	case "down":
		return nil, errors.New("directory down")
	case "nobody":
		return &expand.Next{}, nil
	case "itself":
		r.Channel = mail.ChannelReprocess
	case "held":
		r.Channel = mail.ChannelHold
	case "srs1", "srs2":
		to := mail.Address{Local: "SRS0=x", Domain: "us.example"}
		return &expand.Next{Recipients: []mail.Recipient{r}, ReversePath: &to}, nil
	}
	return &expand.Next{Recipients: []mail.Recipient{r}}, nil
}

func TestDeliver(t *testing.T) {
	in := newDoor()
	a, err := New(Config{Door: in, Expander: answers{}})
	if err != nil {
		t.Fatal(err)
	}
	d := &deliver.Delivery{Envelope: &mail.Envelope{QueueID: "parent", RootID: "root", Origin: "r1", ReversePath: address("ann@out.test")}, Body: [][]byte{[]byte("a"), []byte("b")}}
	for _, to := range []string{"list", "gone", "down", "srs1", "nobody", "other", "srs2"} {
		d.Recipients = append(d.Recipients, mail.Recipient{Address: address(to + "@x.test"), Key: mail.NewDeliveryKey("r1", "root", to)})
	}
	for range 2 { // again after a crash: the same ids
		results := a.Deliver(t.Context(), d)
		for i, want := range []deliver.Outcome{deliver.Passed, deliver.Failed, deliver.Deferred, deliver.Passed, deliver.Passed, deliver.Passed, deliver.Passed} {
			if results[i].Outcome != want {
				t.Errorf("recipient %d: %+v, want %v", i, results[i], want)
			}
		}
		a, _ = New(Config{Door: in, Expander: answers{}}) // another process
	}
	if len(in.in) != 3 { // list, other, and both srs in one
		t.Errorf("%d queued", len(in.in))
	}
	for id, m := range in.in {
		if !queue.ValidID(id) || m.Envelope.RootID != "root" || !m.Final || in.bodies[id] != "ab" {
			t.Errorf("id %q: %+v", id, m)
		}
		if srs := m.Envelope.ReversePath.Local == "SRS0=x"; srs != (len(m.Recipients) == 2) {
			t.Errorf("%+v", m)
		}
	}
	in.fail = errors.New("queue full")
	d.Recipients = []mail.Recipient{{Address: address("third@x.test"), Key: mail.NewDeliveryKey("r1", "root", "third")}}
	if r := a.Deliver(t.Context(), d); r[0].Outcome != deliver.Deferred {
		t.Errorf("no room: %+v", r)
	}
}

// Whoever is still on hold when released is held again, however often; what
// leads to itself waits.
func TestHeldAgain(t *testing.T) {
	in := newDoor()
	a, err := New(Config{Door: in, Expander: answers{}})
	if err != nil {
		t.Fatal(err)
	}
	env := mail.Envelope{QueueID: "parent", RootID: "root", Origin: "r1"}
	r := mail.Recipient{Address: address("held@x.test"), Channel: mail.ChannelReprocess, Key: mail.NewDeliveryKey("r1", "root", "held")}
	for n := range 4 {
		d := &deliver.Delivery{Envelope: &env, Recipients: []mail.Recipient{r}, Body: [][]byte{[]byte("x")}}
		if res := a.Deliver(t.Context(), d); res[0].Outcome != deliver.Passed || len(in.in) != n+1 {
			t.Fatalf("release %d: %+v, %d queued", n, res[0], len(in.in))
		}
		env = in.in[in.order[n]].Envelope
	}
	d := &deliver.Delivery{Envelope: &env, Recipients: []mail.Recipient{{Address: address("itself@x.test")}}, Body: [][]byte{[]byte("x")}}
	if res := a.Deliver(t.Context(), d); res[0].Outcome != deliver.Deferred || len(in.in) != 4 {
		t.Errorf("%+v, %d queued", res[0], len(in.in))
	}
	// A postmaster whom nobody is goes back to the door, which answers for it.
	d.Recipients = []mail.Recipient{{Address: address("postmaster@x.test"), Key: mail.DeliveryKey{1}}}
	if res := a.Deliver(t.Context(), d); res[0].Outcome != deliver.Passed || len(in.in) != 5 {
		t.Fatalf("%+v, %d queued", res[0], len(in.in))
	}
	if m := in.in[in.order[4]]; m.Final || m.Recipients[0].Key != (mail.DeliveryKey{}) || m.Recipients[0].Address.Local != "postmaster" {
		t.Errorf("%+v", m)
	}
}

// people is a directory of one domain, inside.test, with groups.
type people struct {
	directory.Directory
	groups map[string]*directory.Entry
	away   error
	asked  int
}

var inside = &directory.Domain{Name: "inside.test"}

func (p *people) Domain(_ context.Context, name string) (*directory.Domain, error) {
	if name == inside.Name {
		return inside, nil
	}
	return nil, directory.ErrNotFound
}

func (p *people) Lookup(_ context.Context, _ *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if p.asked++; p.away != nil {
		return nil, p.away
	}
	if g := p.groups[a.Local]; g != nil {
		return &directory.Answer{Entries: []*directory.Entry{g}}, nil
	}
	if strings.HasPrefix(a.Local, "u") {
		return &directory.Answer{Entries: []*directory.Entry{{
			Kind: directory.User, DN: "uid=" + a.Local, UID: a.Local, Mail: a.Local + "@inside.test", Mailbox: a.Local + "@inside.test", MailHost: "pair1",
		}}}, nil
	}
	return nil, directory.ErrNotFound
}

func group(name string, members ...string) *directory.Entry {
	return &directory.Entry{Kind: directory.Group, DN: "cn=" + name, Mail: name + "@inside.test", MemberAddresses: members}
}

// run takes a message for one recipient through the channel until nothing is
// left for it, and counts the deliveries. crash, which may be nil, says whether
// the process dies before it notes the n-th submission.
func run(t *testing.T, x Expander, env mail.Envelope, to, msg string, crash func(n int) bool) (in *door, got map[string]int) {
	t.Helper()
	in, got = newDoor(), map[string]int{}
	type work struct {
		env  mail.Envelope
		r    mail.Recipient
		body string
	}
	start := mail.Recipient{Address: address(to), Channel: mail.ChannelReprocess, Key: mail.NewDeliveryKey(env.Origin, env.RootID, to)}
	todo := []work{{env, start, msg}}
	seen := map[string]bool{}
	a, err := New(Config{Door: in, Expander: x})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; len(todo) > 0; n++ {
		if n > 1000 {
			t.Fatal("no end")
		}
		w := todo[0]
		d := &deliver.Delivery{Envelope: &w.env, Recipients: []mail.Recipient{w.r}, Body: [][]byte{[]byte(w.body)}}
		r := a.Deliver(t.Context(), d)[0]
		if r.Outcome != deliver.Passed {
			t.Fatalf("%s: %+v", w.r.Address, r)
		}
		if crash != nil && crash(n) {
			a, _ = New(Config{Door: in, Expander: x}) // the same again
			continue
		}
		todo = todo[1:]
		for _, id := range in.order {
			if seen[id] {
				continue
			}
			seen[id] = true
			m := in.in[id]
			for _, f := range m.Recipients {
				if f.Channel == mail.ChannelReprocess {
					if f.Key == (mail.DeliveryKey{}) { // as the door does
						f.Key = mail.NewDeliveryKey(m.Envelope.Origin, m.Envelope.RootID, f.Address.Key()+"\x00"+f.Mailbox)
					}
					todo = append(todo, work{m.Envelope, f, in.bodies[id]})
					continue
				}
				got[string(f.Channel)+" "+f.Address.String()]++
			}
		}
	}
	return in, got
}

const text = "From: Eve <eve@out.test>\r\nTo: all@inside.test\r\nSubject: hi\r\nReply-To: eve@out.test\r\n\r\nhello\r\n"

var from = mail.Envelope{QueueID: "q", RootID: "root", Origin: "r1", ReversePath: mail.Address{Local: "eve", Domain: "out.test"}}

// A list of 50,000 members, some of them by two ways, reaches each once, in
// pieces, and doubles nobody when the process dies after any piece.
func TestLargeList(t *testing.T) {
	const members = 50_000
	p := &people{groups: map[string]*directory.Entry{}}
	var all []string
	for i := range members - 10 {
		if i%10 == 0 {
			all = append(all, fmt.Sprintf("x%d@far.test", i))
		} else {
			all = append(all, fmt.Sprintf("u%d@inside.test", i))
		}
	}
	p.groups["part"] = group("part", all[:500]...)
	p.groups["all"] = group("all", append(all, "part@inside.test")...)
	p.groups["all"].MemberAddresses = p.groups["all"].MemberAddresses[:members-9]
	x, err := expand.New(expand.Config{Directory: p, Pair: expand.Pairs("pair1"), ChunkSize: 15000})
	if err != nil {
		t.Fatal(err)
	}
	in, got := run(t, x, from, "all@inside.test", text, func(n int) bool { return n == 1 || n == 3 })
	if len(got) != members-10 {
		t.Errorf("%d delivered, want %d", len(got), members-10)
	}
	for to, n := range got {
		if n != 1 {
			t.Fatalf("%s: %d copies", to, n)
		}
	}
	if len(in.order) != 4 {
		t.Errorf("%d pieces", len(in.order))
	}
	for _, id := range in.order {
		if m := in.in[id]; len(m.Recipients) > 15001 || m.Envelope.RootID != "root" || in.bodies[id] != text {
			t.Errorf("piece %s of %d, root %s", id, len(m.Recipients), m.Envelope.RootID)
		}
	}
}

// A directory that fails in the middle of any look at the list sends nothing of
// that piece.
func TestCutShort(t *testing.T) {
	p := &people{groups: map[string]*directory.Entry{"all": group("all", "u1@inside.test", "u2@inside.test", "u3@inside.test")}}
	x, err := expand.New(expand.Config{Directory: p, Pair: expand.Pairs("pair1"), ChunkSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	in := newDoor()
	a, err := New(Config{Door: in, Expander: x})
	if err != nil {
		t.Fatal(err)
	}
	env := from
	d := &deliver.Delivery{Envelope: &env, Recipients: []mail.Recipient{{Address: address("all@inside.test"), Key: mail.DeliveryKey{1}}}, Body: [][]byte{[]byte(text)}}
	for n := range 4 {
		calls := 0
		failing := lookups{p, func() error {
			if calls++; calls == n+1 {
				return directory.ErrUnavailable
			}
			return nil
		}}
		x, err := expand.New(expand.Config{Directory: failing, Pair: expand.Pairs("pair1"), ChunkSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		a, err := New(Config{Door: in, Expander: x})
		if err != nil {
			t.Fatal(err)
		}
		if r := a.Deliver(t.Context(), d); r[0].Outcome != deliver.Deferred || len(in.in) != 0 {
			t.Errorf("failure of question %d: %+v, %d queued", n, r[0], len(in.in))
		}
	}
	if r := a.Deliver(t.Context(), d); r[0].Outcome != deliver.Passed || len(in.in) != 1 {
		t.Errorf("no failure: %+v, %d queued", r[0], len(in.in))
	}
}

// lookups fails some questions.
type lookups struct {
	*people
	fail func() error
}

func (l lookups) Lookup(ctx context.Context, d *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	return l.people.Lookup(ctx, d, a)
}

// A list with an owner and fields of its own sends one copy under a root of its
// own, the same one whenever it is made; a list inside it is judged by who
// posted, and makes its own copy.
func TestChangedList(t *testing.T) {
	p := &people{groups: map[string]*directory.Entry{}}
	outer := group("outer", "u1@inside.test", "inner@inside.test", "far@far.test")
	outer.ErrorsTo = "mailto:uowner@inside.test"
	outer.List = &directory.List{
		MaxAttachments: -1, RemoveHeader: []string{"Reply-To"}, AddHeader: []string{"Reply-To: outer@inside.test"},
		Suffix: "-- \nthe list\n", SubjectTag: "[outer]", Unsubscribe: []string{"https://inside.test/u"},
	}
	inner := group("inner", "u2@inside.test", "u1@inside.test")
	inner.List = &directory.List{MaxAttachments: -1, AllowedDomains: []string{"out.test"}, SubjectTag: "[inner]"}
	p.groups["outer"], p.groups["inner"] = outer, inner
	x, err := expand.New(expand.Config{Directory: p, Pair: expand.Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	env := from
	env.EnvelopeID, env.Ret = "id", "FULL"
	in, got := run(t, x, env, "outer@inside.test", text, nil)
	again, _ := run(t, x, env, "outer@inside.test", text, func(n int) bool { return n < 8 && n%2 == 0 })
	slices.Sort(in.order)
	slices.Sort(again.order)
	if !slices.Equal(in.order, again.order) {
		t.Errorf("ids %v, with crashes %v", in.order, again.order)
	}
	want := map[string]int{"tcp_lmtpcs u1@inside.test": 2, "tcp_lmtpcs u2@inside.test": 1, "tcp_local far@far.test": 1}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
	for to, n := range want {
		if got[to] != n {
			t.Errorf("%s: %d copies, want %d", to, got[to], n)
		}
	}
	for id, m := range in.in {
		if in.bodies[id] != again.bodies[id] {
			t.Errorf("%s: another copy:\n%s\n%s", id, in.bodies[id], again.bodies[id])
		}
		body := in.bodies[id]
		if m.Envelope.RootID == "root" || m.Envelope.ReversePath != address("uowner@inside.test") || m.Envelope.EnvelopeID != "" {
			t.Errorf("%s: envelope %+v", id, m.Envelope)
		}
		if !strings.Contains(body, "[outer] hi") || !strings.Contains(body, "Reply-To: outer@inside.test") || strings.Contains(body, "eve@out.test\r\n\r\n") || !strings.HasSuffix(body, "the list\r\n") {
			t.Errorf("%s: %s", id, body)
		}
		for _, r := range m.Recipients {
			if r.Address.Local == "u2" && !strings.Contains(body, "[inner] [outer] hi") {
				t.Errorf("u2 got %s", body)
			}
			if r.Notify != mail.NotifyFailure {
				t.Errorf("%+v", r)
			}
		}
	}
	// The inner list does not take it from elsewhere, although the outer one's
	// owner is inside.
	env.ReversePath = address("eve@elsewhere.test")
	a, err := New(Config{Door: newDoor(), Expander: x})
	if err != nil {
		t.Fatal(err)
	}
	d := &deliver.Delivery{Envelope: &env, Recipients: []mail.Recipient{{Address: address("inner@inside.test"), Via: []string{"outer@inside.test"}, Mailbox: "poster=eve%40elsewhere.test"}}, Body: [][]byte{[]byte(text)}}
	d.Envelope.ReversePath = address("uowner@out.test")
	if r := a.Deliver(t.Context(), d); r[0].Outcome != deliver.Failed || r[0].Status != mail.StatusRefused {
		t.Errorf("%+v", r[0])
	}
}

// What forwards to other domains leaves with a reverse-path of ours; what
// returns to it finds its way.
func TestSRS(t *testing.T) {
	p := &people{groups: map[string]*directory.Entry{}}
	p.groups["fwd"] = &directory.Entry{
		Kind: directory.User, DN: "uid=fwd", UID: "fwd", Mail: "fwd@inside.test", MailHost: "pair1",
		DeliveryOptions: []string{"forward"}, Forwarding: []string{"a@far.test", "b@far.test", "u1@inside.test"},
	}
	x, err := expand.New(expand.Config{Directory: p, Pair: expand.Pairs("pair1"), SRS: &expand.SRS{Domain: "inside.test", Keys: [][]byte{bytes.Repeat([]byte("k"), 16)}}})
	if err != nil {
		t.Fatal(err)
	}
	env := from
	rs, err := x.Rcpt(t.Context(), &env, mail.Recipient{Address: address("fwd@inside.test")})
	if err != nil || len(rs) != 3 || rs[0].Channel != mail.ChannelReprocess || rs[1].Channel != mail.ChannelReprocess || rs[2].Channel != mail.ChannelLMTP {
		t.Fatalf("%+v, %v", rs, err)
	}
	in := newDoor()
	a, err := New(Config{Door: in, Expander: x})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rs {
		rs[i].Key = mail.NewDeliveryKey("r1", "root", rs[i].Address.String())
	}
	d := &deliver.Delivery{Envelope: &env, Recipients: rs[:2], Body: [][]byte{[]byte(text)}}
	for range 2 {
		for _, r := range a.Deliver(t.Context(), d) {
			if r.Outcome != deliver.Passed {
				t.Errorf("%+v", r)
			}
		}
	}
	if len(in.in) != 1 {
		t.Fatalf("%d queued", len(in.in))
	}
	m := in.in[in.order[0]]
	if len(m.Recipients) != 2 || m.Recipients[0].Channel != mail.ChannelSMTP || m.Recipients[0].NextHop != "far.test" || m.Envelope.RootID != "root" || m.Envelope.ReversePath.Domain != "inside.test" {
		t.Fatalf("%+v", m)
	}
	back, err := x.Rcpt(t.Context(), &mail.Envelope{}, mail.Recipient{Address: m.Envelope.ReversePath})
	if err != nil || len(back) != 1 || back[0].Address != from.ReversePath || len(back[0].Via) == 0 || back[0].Channel != mail.ChannelSMTP {
		t.Errorf("back: %+v, %v", back, err)
	}
	if _, err := x.Rcpt(t.Context(), &env, mail.Recipient{Address: m.Envelope.ReversePath}); !mail.Permanent(err) {
		t.Errorf("mail that is no report: %v", err)
	}
	// Senders of ours keep their address.
	env.ReversePath = address("u9@inside.test")
	if rs, err = x.Rcpt(t.Context(), &env, mail.Recipient{Address: address("fwd@inside.test")}); err != nil || rs[0].Channel != mail.ChannelSMTP {
		t.Errorf("%+v, %v", rs, err)
	}
}

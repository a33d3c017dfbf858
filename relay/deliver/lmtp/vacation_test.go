package lmtp

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// away is a delivery to three: one whose mail is answered, one whose mail is
// only answered, one who is at home.
func away() *deliver.Delivery {
	d := delivery(3)
	d.Recipients[0].Autoreply = &mail.Autoreply{Mode: mail.AutoreplyReply, Text: "away\n", Timeout: 3600e9}
	d.Recipients[1].Autoreply = &mail.Autoreply{Mode: mail.AutoreplyReply, Text: "away\n", Timeout: 3600e9, Only: true}
	return d
}

func decisions(results []deliver.Result) string {
	var s []string
	for _, r := range results {
		s = append(s, fmt.Sprint(r.Outcome, " ", r.Answer))
	}
	return strings.Join(s, ", ")
}

func TestVacation(t *testing.T) {
	s := sink(t, nil, lmtptest.Vacation)
	a := agent(t, Config{Routes: pair(s)})
	const yes = "delivered true, delivered true, delivered false"
	for range 2 { // the second time with the same keys
		if got := decisions(a.Deliver(t.Context(), away())); got != yes {
			t.Error(got)
		}
	}
	stored := s.Stored()
	if len(stored) != 2 || stored[0].To.Local != "u0" || stored[1].To.Local != "u2" {
		t.Fatalf("stored %+v", stored)
	}
	d := away()
	q := d.Recipients[0].Autoreply.Query(d.Envelope)
	if got := stored[0].Private[paramVacation]; got != q.String() || !strings.HasSuffix(got, ",3600") {
		t.Errorf("asked %q", got)
	}
	if got, asked := stored[1].Private[paramVacation]; asked {
		t.Errorf("asked %q for who is at home", got)
	}
	for i := range d.Recipients { // another message
		d.Recipients[i].Key = mail.NewDeliveryKey("o", "other", fmt.Sprint(i))
	}
	if got := decisions(a.Deliver(t.Context(), d)); got != "delivered false, delivered false, delivered false" {
		t.Errorf("the second message: %s", got)
	}
}

// TestCreated: only words at the end of an answer to XWELCOME count, and only
// from who knows them.
func TestCreated(t *testing.T) {
	for text, want := range map[string]int64{
		"delivered welcome=1700000000":                     1700000000,
		"delivered welcome=1700000000 vacation=none":       1700000000,
		"delivered welcome=1700000000 vacation=reply":      1700000000,
		"delivered vacation=reply":                         0,
		"delivered":                                        0,
		"<\"a welcome=5\"@x> delivered":                    0,
		"delivered welcome=-5":                             0,
		"delivered welcome=99999999999":                    0,
		"delivered welcome=":                               0,
		"delivered, by an earlier attempt welcome=17 more": 0,
	} {
		for _, opts := range [][]lmtptest.Option{{lmtptest.Welcome}, nil} {
			s := sink(t, nil, opts...)
			s.Answer = func(*smtp.RcptArgs) *smtp.Reply { return &smtp.Reply{Code: 250, Text: text} }
			d := delivery(2)
			d.Recipients[0].Welcome = "Hello"
			res := agent(t, Config{Routes: pair(s)}).Deliver(t.Context(), d)
			want := want
			if opts == nil {
				want = 0
			}
			if res[0].Created != want || res[1].Created != 0 {
				t.Errorf("%q: %d and %d, want %d", text, res[0].Created, res[1].Created, want)
			}
		}
	}
}

// TestPartition: the partition is told to a pair that knows the parameter, and
// to no other.
func TestPartition(t *testing.T) {
	for name, tt := range map[string]struct {
		opts []lmtptest.Option
		want string
	}{
		"a pair":        {[]lmtptest.Option{lmtptest.Partitions}, "p1"},
		"an older pair": {nil, ""},
		"no pair":       {[]lmtptest.Option{lmtptest.Plain}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := sink(t, nil, tt.opts...)
			d := delivery(2)
			d.Recipients[0].Store, d.Envelope.Guaranteed = "p1", true
			for i, r := range agent(t, Config{Routes: pair(s)}).Deliver(t.Context(), d) {
				if r.Outcome != deliver.Delivered {
					t.Errorf("recipient %d: %+v", i, r)
				}
			}
			stored := s.Stored()
			if len(stored) != 2 || stored[0].Private[paramStore] != tt.want || stored[1].Private[paramStore] != "" {
				t.Errorf("stored %+v", stored)
			}
			if got := stored[1].Private["XDFLG"]; (got == "2") != (name != "no pair") {
				t.Errorf("guaranteed: XDFLG %q", got)
			}
		})
	}
}

// TestPoster: who posts to a folder is told to a pair that knows the parameter,
// and to no other, as far as a command has room.
func TestPoster(t *testing.T) {
	for name, tt := range map[string]struct {
		opts []lmtptest.Option
		want string
	}{
		"a pair":        {[]lmtptest.Option{lmtptest.Posters}, "eva@example.net grüße@example.net"},
		"an older pair": {nil, ""},
		"no pair":       {[]lmtptest.Option{lmtptest.Plain}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := sink(t, nil, tt.opts...)
			d := delivery(3)
			d.Recipients[0].Folder, d.Recipients[0].Poster = "work", []string{"eva@example.net", "", "two words@example.net", "grüße@example.net"}
			d.Recipients[1].Poster = []string{"eva@example.net"} // no folder
			d.Recipients[2].Folder = "work"
			for i, r := range agent(t, Config{Routes: pair(s)}).Deliver(t.Context(), d) {
				if r.Outcome != deliver.Delivered {
					t.Errorf("recipient %d: %+v", i, r)
				}
			}
			stored := s.Stored()
			if len(stored) != 3 || stored[0].Private[paramPoster] != tt.want || stored[1].Private[paramPoster] != "" || stored[2].Private[paramPoster] != "" {
				t.Errorf("stored %+v", stored)
			}
		})
	}
}

// TestPosterFits: the longest folder and the most identities are one command.
func TestPosterFits(t *testing.T) {
	s := sink(t, nil, lmtptest.Posters)
	d := delivery(1)
	r := &d.Recipients[0]
	r.Folder = strings.Repeat("ü", 250)
	for i := range 100 {
		r.Poster = append(r.Poster, fmt.Sprintf("ü+%d@example.net", i))
	}
	if res := agent(t, Config{Routes: pair(s)}).Deliver(t.Context(), d)[0]; res.Outcome != deliver.Delivered {
		t.Fatalf("%+v", res)
	}
	if told := strings.Fields(s.Stored()[0].Private[paramPoster]); len(told) < 20 || len(told) == 100 || told[0] != r.Poster[0] || told[len(told)-1] != mail.MoreIdentities {
		t.Errorf("%q", told)
	}
	for want, ids := range map[string][]string{
		"":          {"two words@x"},
		"eva@x -":   {"eva@x", mail.MoreIdentities, mail.MoreIdentities},
		"eva@x y -": {"eva@x", strings.Repeat("x", maxPoster), "y"},
	} {
		if got := posterOf(ids); got != want {
			t.Errorf("%.40q: %q, want %q", ids, got, want)
		}
	}
}

// TestVacationUnknown: a pair, or a foreign server, that cannot be asked gets
// the mail all the same, but not what is not to be stored.
func TestVacationUnknown(t *testing.T) {
	for name, opts := range map[string][]lmtptest.Option{
		"an older pair": nil,
		"no pair":       {lmtptest.Plain},
		"X-TT 1 with something else": {func(c *smtp.ServerConfig) {
			c.Private = "X-TT 1 XVACATIONS"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sink(t, nil, opts...)
			s.Answer = func(*smtp.RcptArgs) *smtp.Reply { return &smtp.Reply{Code: 250, Text: "OK vacation=reply"} }
			a := agent(t, Config{Routes: pair(s)})
			if got := decisions(a.Deliver(t.Context(), away())); got != "delivered false, delivered false, delivered false" {
				t.Error(got)
			}
			if _, messages, _, _ := s.Counts(); messages != 1 {
				t.Errorf("%d messages", messages)
			}
			d := away() // nobody is left to be sent to
			d.Recipients = d.Recipients[1:2]
			if got := decisions(a.Deliver(t.Context(), d)); got != "delivered false" {
				t.Error(got)
			}
			if sessions, messages, _, _ := s.Counts(); messages != 1 || sessions != 1 {
				t.Errorf("%d messages in %d sessions", messages, sessions)
			}
		})
	}
}

// TestVacationAnswerLost: the pair has decided and stored when the connection
// breaks; the attempt that follows under the same keys learns the decision.
func TestVacationAnswerLost(t *testing.T) {
	broken := false
	s := sink(t, func(c net.Conn) net.Conn { return c }, lmtptest.Vacation, func(c *smtp.ServerConfig) {
		open := c.NewSession
		c.NewSession = func(ctx context.Context, info *smtp.ConnInfo) (smtp.Session, error) {
			inner, err := open(ctx, info)
			if broken {
				return inner, err
			}
			broken = true
			return &mute{inner}, err
		}
	})
	a := agent(t, Config{Routes: pair(s)})
	if got := decisions(a.Deliver(t.Context(), away())); got != "delivered true, delivered true, delivered false" {
		t.Error(got)
	}
	if sessions, messages, repeats, _ := s.Counts(); sessions != 2 || messages != 2 || repeats != 3 {
		t.Errorf("%d sessions, %d messages, %d repeats", sessions, messages, repeats)
	}
}

// TestVacationRefused: only a delivery is answered, and only by the words at
// the end.
func TestVacationRefused(t *testing.T) {
	for text, want := range map[string]bool{
		"250 OK vacation=reply":               true,
		"250 OK vacation=none":                false,
		"250 OK":                              false,
		"250 OK vacation=reply, or not":       false,
		"452 full vacation=reply":             false,
		"550 unknown <x> vacation=reply":      false,
		"250 <a vacation=reply@x.example> OK": false,
	} {
		var r smtp.Reply
		fmt.Sscanf(text, "%d", &r.Code)
		r.Text = text[4:]
		if got := answered(&r); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// TestClaims: with a pair that knows claims an answer stays due, to a repeated
// delivery and to the next message, until it is claimed; the one that claimed it
// claims it again. A pair that knows none gives the answer to any claim.
func TestClaims(t *testing.T) {
	s := sink(t, nil, lmtptest.Claims)
	a := agent(t, Config{Routes: pair(s)})
	const yes, no = "delivered true, delivered true, delivered false", "delivered false, delivered false, delivered false"
	next := func(id string) *deliver.Delivery {
		d := away()
		for i := range d.Recipients {
			d.Recipients[i].Key = mail.NewDeliveryKey("o", id, fmt.Sprint(i))
		}
		return d
	}
	for _, d := range []*deliver.Delivery{away(), away(), next("second")} {
		if got := decisions(a.Deliver(t.Context(), d)); got != yes {
			t.Errorf("before the claim: %s", got)
		}
	}
	claim := func(a *Agent, pair, id string) bool {
		t.Helper()
		d := away()
		for i := range 2 {
			r := &d.Recipients[i]
			q := r.Autoreply.Query(d.Envelope)
			c := mail.AutoreplyClaim{Pair: pair, Mailbox: r.Mailbox, Hash: q.Hash, Period: q.Period}
			res := a.Claim(t.Context(), &mail.Envelope{Origin: "o", RootID: id, QueueID: id}, &c)
			if res.Outcome != deliver.Delivered {
				t.Fatalf("%+v", res)
			}
			if i == 1 {
				return res.Answer
			}
		}
		return false
	}
	name := away().Recipients[0].NextHop
	for i, tt := range []struct {
		id   string
		want bool
	}{{"first", true}, {"first", true}, {"other", false}, {"first", true}} {
		if got := claim(a, name, tt.id); got != tt.want {
			t.Errorf("claim %d by %s: %v", i, tt.id, got)
		}
	}
	for _, d := range []*deliver.Delivery{away(), next("third")} {
		if got := decisions(a.Deliver(t.Context(), d)); got != no {
			t.Errorf("after the claim: %s", got)
		}
	}
	if n := len(s.Stored()); n != 6 {
		t.Errorf("%d deliveries stored", n)
	}
	old := sink(t, nil, lmtptest.Vacation)
	if b := agent(t, Config{Routes: pair(old)}); !claim(b, name, "any") {
		t.Error("a pair without claims refuses one")
	}
	gone := agent(t, Config{Routes: pair(), Rounds: 1})
	if res := gone.Claim(t.Context(), &mail.Envelope{}, &mail.AutoreplyClaim{Pair: name, Mailbox: "u0@example.org", Period: 1}); res.Outcome.Done() {
		t.Errorf("nobody was asked: %+v", res)
	}
}

// mute takes the message and closes the connection instead of answering.
type mute struct{ smtp.Session }

func (m *mute) Data(ctx context.Context, msg *smtp.Message) []*smtp.Reply {
	replies := m.Session.Data(ctx, msg)
	for i := range replies {
		replies[i] = &smtp.Reply{Code: 421, Status: mail.StatusShuttingDown, Text: "going", Close: true}
	}
	return replies
}

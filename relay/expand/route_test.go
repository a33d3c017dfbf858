package expand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Which machine finishes the job, by the section on mailHost and the one on
// locality.
func TestRoutes(t *testing.T) {
	d := fixture()
	d.domains = map[string]*directory.Domain{
		"smart.test":  {Name: "smart.test", SmartHost: "Old.smart.test"},
		"catch.test":  {Name: "catch.test", CatchAll: "ann@example.test", SmartHost: "never.test"},
		"bad.test":    {Name: "bad.test", CatchAll: "not an address"},
		"theirs.test": {Name: "theirs.test", RoutingHosts: []string{"Relay9.test", "relay8.test"}},
		"ours.test":   {Name: "ours.test", RoutingHosts: []string{"other.test", "Relay1.test"}},
		"off.test":    {Name: "off.test", MailStatus: directory.Disabled, CatchAll: "ann@example.test"},
		"loop.test":   {Name: "loop.test", CatchAll: "x@loop.test"},
	}
	at := func(address string, e *directory.Entry) { d.users[address] = []*directory.Entry{e} }
	at("nohost@smart.test", with(user("nohost"), func(e *directory.Entry) { e.MailHost = "" }))
	at("fwd@smart.test", with(forward("fwd", "bob@example.test"), func(e *directory.Entry) { e.MailHost = "" }))
	at("listed@ours.test", user("listed"))
	at("routed@example.test", with(user("routed"), func(e *directory.Entry) { e.MailHost, e.RoutingAddress = "", "r@far.test" }))
	at("moved@example.test", with(user("moved"), func(e *directory.Entry) { e.MailHost, e.RoutingAddress = "legacy.test", "ann@example.test" }))
	at("here@example.test", with(user("here"), func(e *directory.Entry) { e.RoutingAddress = "r@far.test" }))
	at("badroute@example.test", with(user("badroute"), func(e *directory.Entry) { e.MailHost, e.RoutingAddress = "", "nonsense" }))
	at("staff@example.test", with(group("ann@example.test"), func(e *directory.Entry) {
		e.DN, e.Mail, e.ErrorsTo = "cn=staff", "staff@example.test", "mailto:bob@example.test"
		e.List = &directory.List{RequestTo: "ann@example.test", MaxAttachments: -1}
	}))
	at("away@example.test", with(group("ann@example.test"), func(e *directory.Entry) { e.MailHost, e.DeliveryOptions = "relay9.test", []string{"bound"} }))
	at("mine@example.test", with(group("ann@example.test"), func(e *directory.Entry) { e.MailHost, e.DeliveryOptions = "relay1.test", []string{"bound"} }))
	list := func(host, routed string) *directory.Entry {
		return with(group("ann@example.test"), func(e *directory.Entry) { e.MailHost, e.RoutingAddress = host, routed })
	}
	at("listelse@example.test", list("", "l@far.test"))
	at("listelse2@example.test", list("relay9.test", "l@far.test"))
	at("listhere@example.test", list("Relay1.test", "l@far.test"))
	at("listpair@example.test", list("pair1.int", "l@far.test"))
	at("listbad@example.test", list("", "nonsense"))
	tied := func(host string, options ...string) *directory.Entry {
		return with(user("tied", append(options, "tied")...), func(e *directory.Entry) { e.MailHost = host })
	}
	at("tied9@example.test", tied("store9.test"))
	at("tiedtoo@example.test", tied("store9.test", "forward"))
	at("tied1@example.test", tied("pair1.int"))
	at("tied@smart.test", tied(""))
	at("free@example.test", with(group("ann@example.test"), func(e *directory.Entry) { e.MailHost = "relay9.test" }))
	for _, follow := range []bool{false, true} {
		x, err := New(Config{Directory: d, Pair: Pairs("pair1"), Hostnames: []string{"relay1.test"}, RouteToRoutingHost: follow, Options: []string{"&bound=*", "*tied=$M@archive.test"}})
		if err != nil {
			t.Fatal(err)
		}
		theirs := "tcp_local theirs.test x@theirs.test via"
		if follow {
			theirs = "tcp_local relay9.test x@theirs.test via"
		}
		for to, want := range map[string]string{
			"nohost@smart.test":          "tcp_local old.smart.test nohost@smart.test via",
			"unknown@smart.test":         "tcp_local old.smart.test unknown@smart.test via",
			"fwd@smart.test":             "tcp_lmtpcs pair1 bob@example.test via",
			"any@catch.test":             "tcp_lmtpcs pair1 ann@example.test via",
			"any@bad.test":               "451 4.3.5",
			"any@off.test":               "550 5.2.1",
			"y@loop.test":                "550 5.4.6",
			"x@theirs.test":              theirs,
			"listed@ours.test":           "tcp_lmtpcs pair1 listed@ours.test",
			"nobody@ours.test":           "550 5.1.1",
			"routed@example.test":        "tcp_local far.test r@far.test via",
			"moved@example.test":         "tcp_lmtpcs pair1 ann@example.test via",
			"here@example.test":          "tcp_lmtpcs pair1 here@example.test",
			"badroute@example.test":      "451 4.3.5",
			"staff-request@example.test": "tcp_lmtpcs pair1 ann@example.test via",
			"owner-staff@example.test":   "tcp_lmtpcs pair1 bob@example.test via",
			"STAFF-owner@example.test":   "tcp_lmtpcs pair1 bob@example.test via",
			"ann-request@example.test":   "550 5.1.1",
			"list-request@example.test":  "550 5.1.1",
			"away@example.test":          "tcp_local relay9.test away@example.test via",
			"mine@example.test":          "tcp_lmtpcs pair1 ann@example.test via",
			"free@example.test":          "tcp_lmtpcs pair1 ann@example.test via",
			"listelse@example.test":      "tcp_local far.test l@far.test via",
			"listelse2@example.test":     "tcp_local far.test l@far.test via",
			"listhere@example.test":      "tcp_lmtpcs pair1 ann@example.test via",
			"listpair@example.test":      "tcp_lmtpcs pair1 ann@example.test via",
			"listbad@example.test":       "451 4.3.5",
			"tied9@example.test":         "tcp_local store9.test tied9@example.test via",
			"tiedtoo@example.test":       "tcp_local store9.test tiedtoo@example.test via",
			"tied1@example.test":         "tcp_local archive.test tied@archive.test via",
			"tied@smart.test":            "tcp_local old.smart.test tied@smart.test via",
		} {
			a, err := mail.ParseAddress(to, true)
			if err != nil {
				t.Fatal(err)
			}
			rs, err := x.Rcpt(t.Context(), nil, mail.Recipient{Address: a})
			got := ""
			if err != nil {
				e := mail.AsError("", err)
				got = fmt.Sprintf("%d %s", e.ReplyCode(), e.Status)
			} else {
				r := rs[0]
				got = fmt.Sprintf("%s %s %s", r.Channel, r.NextHop, r.Address)
				if len(r.Via) > 0 {
					got += " via"
				}
			}
			if got != want || len(rs) > 1 {
				t.Errorf("%s (%v): %q, want %q", to, follow, got, want)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	d := fixture()
	d.domains = map[string]*directory.Domain{"small.test": {Name: "small.test", MaxBlocks: 2}}
	d.users["plain@small.test"] = []*directory.Entry{user("plain")}
	d.users["own@small.test"] = []*directory.Entry{with(user("own"), func(e *directory.Entry) { e.MaxBlocks = 4 })}
	d.users["zero@small.test"] = []*directory.Entry{with(user("zero"), func(e *directory.Entry) { e.Quota = &mail.Quota{Messages: -2} })}
	d.users["q@small.test"] = []*directory.Entry{with(user("q"), func(e *directory.Entry) { e.Quota = &mail.Quota{Bytes: 5, Messages: -1, Stamp: "s"} })}
	x, err := New(Config{Directory: d, Pair: Pairs("pair1"), Texts: map[string]string{"too_big": "Zu gross"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		local string
		size  int64
		limit int64
		code  int
	}{
		{"plain", 2048, 2048, 0}, {"plain", 2049, 0, 552}, {"plain", 0, 2048, 0}, {"own", 4096, 4096, 0}, {"own", 4097, 0, 552}, {"zero", 1, 0, 552}, {"q", 1, 2048, 0},
	} {
		rs, err := x.Rcpt(t.Context(), &mail.Envelope{Size: tt.size}, mail.Recipient{Address: mail.Address{Local: tt.local, Domain: "small.test"}})
		if tt.code != 0 {
			e := mail.AsError("", err)
			if e.Code != tt.code || tt.local != "zero" && (e.Status != mail.Status{5, 2, 3} || e.Reply != "Zu gross") {
				t.Errorf("%s of %d: %v", tt.local, tt.size, err)
			}
			continue
		}
		if err != nil || rs[0].MaxSize != tt.limit {
			t.Errorf("%s of %d: %+v, %v", tt.local, tt.size, rs, err)
		}
		if q := rs[0].Quota; (q != nil) != (tt.local == "q") || q != nil && q.Stamp != "s" {
			t.Errorf("%s: quota %+v", tt.local, q)
		}
	}
}

// TestSystemQuota: what an entry leaves to the system is the system's, each of
// the two by itself.
func TestSystemQuota(t *testing.T) {
	d := fixture()
	for local, q := range map[string]*mail.Quota{
		"none": nil, "default": {Bytes: -2, Messages: -2, Stamp: "s"}, "own": {Bytes: 5, Messages: -2, Stamp: "s"}, "free": {Bytes: -1, Messages: 7, Stamp: "s"},
	} {
		put(d, local, user(local), func(e *directory.Entry) { e.Quota, e.Stamp = q, "s" })
	}
	for _, tt := range []struct {
		bytes, messages int64
		want            map[string]string
	}{
		{0, 0, map[string]string{"none": "-", "default": "{-2 -2 s}", "own": "{5 -2 s}", "free": "{-1 7 s}"}},
		{100, 0, map[string]string{"none": "{100 -2 s}", "default": "{100 -2 s}", "own": "{5 -2 s}", "free": "{-1 7 s}"}},
		{100, 9, map[string]string{"none": "{100 9 s}", "default": "{100 9 s}", "own": "{5 9 s}", "free": "{-1 7 s}"}},
		{0, 9, map[string]string{"none": "{-2 9 s}", "default": "{-2 9 s}", "own": "{5 9 s}", "free": "{-1 7 s}"}},
	} {
		x, err := New(Config{Directory: d, Pair: Pairs("pair1"), Quota: tt.bytes, MessageQuota: tt.messages})
		if err != nil {
			t.Fatal(err)
		}
		for local, want := range tt.want {
			rs, err := x.Rcpt(t.Context(), nil, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
			if err != nil {
				t.Fatal(err)
			}
			got := "-"
			if q := rs[0].Quota; q != nil {
				got = fmt.Sprint(*q)
			}
			if got != want {
				t.Errorf("%s of %d, %d: %s, want %s", local, tt.bytes, tt.messages, got, want)
			}
		}
	}
}

// TestLimitsOnTheWay: whoever is reached by a list or a forward takes no more than
// that does, whether or not the size is announced.
func TestLimitsOnTheWay(t *testing.T) {
	d := fixture()
	d.domains = map[string]*directory.Domain{"small.test": {Name: "small.test", MaxBlocks: 8}}
	blocks := func(address string, n int64, e *directory.Entry) {
		e.MaxBlocks = n
		d.users[address] = []*directory.Entry{e}
	}
	to := []string{"four@example.test", "bob@example.test", "z@out.test"}
	blocks("four@example.test", 4, user("four"))
	blocks("list@small.test", 0, with(group(to...), func(e *directory.Entry) { e.DN = "cn=bydomain" }))
	blocks("own@small.test", 6, with(group(to...), func(e *directory.Entry) { e.DN = "cn=own" }))
	blocks("fwd@small.test", 0, forward("fwdsmall", to...))
	blocks("wide@small.test", 0, with(group("own@small.test"), func(e *directory.Entry) { e.DN = "cn=wide" }))
	blocks("tight@small.test", 2, with(group("own@small.test"), func(e *directory.Entry) { e.DN = "cn=tight" }))
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string][3]int64{"list": {4, 8, 8}, "own": {4, 6, 6}, "fwd": {4, 8, 8}, "wide": {4, 6, 6}, "tight": {2, 2, 2}} {
		r := mail.Recipient{Address: mail.Address{Local: local, Domain: "small.test"}}
		rs, err := x.Rcpt(t.Context(), nil, r)
		if err != nil || len(rs) != 3 {
			t.Fatalf("%s: %q, %v", local, show(rs), err)
		}
		for i := range rs {
			if rs[i].MaxSize != want[i]*1024 {
				t.Errorf("%s: %s takes %d, want %d blocks", local, rs[i].Address, rs[i].MaxSize, want[i])
			}
		}
		for size, code := range map[int64]int{want[1] * 1024: 0, want[1]*1024 + 1: 552} {
			_, err := x.Rcpt(t.Context(), &mail.Envelope{Size: size}, r)
			if (err != nil) != (code != 0) || err != nil && mail.AsError("", err).Code != code {
				t.Errorf("%s, %d octets: %v, want %d", local, size, err, code)
			}
		}
	}
}

// The limit of a domain is one for all of its addresses, also those that nobody has.
func TestLimitOfNobody(t *testing.T) {
	d := fixture()
	d.domains = map[string]*directory.Domain{
		"caught.test": {Name: "caught.test", MaxBlocks: 8, CatchAll: "bob@example.test"},
		"smart.test":  {Name: "smart.test", MaxBlocks: 8, SmartHost: "smart.example"},
		"none.test":   {Name: "none.test", MaxBlocks: 8},
	}
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	for domain, want := range map[string][2]int{"caught.test": {0, 552}, "smart.test": {0, 552}, "none.test": {550, 550}} {
		for i, size := range []int64{8 << 10, 8<<10 + 1} {
			code := 0
			rs, err := x.Rcpt(t.Context(), &mail.Envelope{Size: size}, mail.Recipient{Address: mail.Address{Local: "who", Domain: domain}})
			if err != nil {
				code = mail.AsError("", err).ReplyCode()
			}
			if code != want[i] || err == nil && rs[0].MaxSize != 8<<10 {
				t.Errorf("%s, %d octets: %q, %v, want %d", domain, size, show(rs), err, want[i])
			}
		}
	}
}

// Deferral: the whole entry, or what follows the access checks.
func TestDefer(t *testing.T) {
	d := fixture()
	put(d, "lazy", user("lazy"), func(e *directory.Entry) { e.Defer = "yes" })
	put(d, "eager", user("eager"), func(e *directory.Entry) { e.Defer = "no" })
	rules := &directory.List{MaxAttachments: -1, AllowedDomains: []string{"ok.test"}}
	put(d, "checked", group("ann@example.test"), func(e *directory.Entry) { e.Defer, e.List = "after_auth", rules })
	put(d, "unchecked", group("ann@example.test"), func(e *directory.Entry) { e.Defer, e.List = "yes", rules })
	put(d, "holds", group("lazy@example.test", "bob@example.test"), nil)
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ from, local, now, later string }{
		{"a@ok.test", "lazy", "reprocess lazy@example.test", "tcp_lmtpcs pair1 lazy@example.test"},
		{"a@ok.test", "eager", "tcp_lmtpcs pair1 eager@example.test", ""},
		{"a@ok.test", "checked", "reprocess checked@example.test", "tcp_lmtpcs pair1 ann@example.test"},
		{"a@bad.test", "checked", "550 5.7.1", ""},
		{"a@bad.test", "unchecked", "reprocess unchecked@example.test", "550 5.7.1"},
		{"a@ok.test", "holds", "reprocess lazy@example.test tcp_lmtpcs pair1 bob@example.test", "tcp_lmtpcs pair1 lazy@example.test"},
	} {
		rs, got := ask(t, x, tt.from, tt.local)
		if strings.Join(got, " ") != tt.now {
			t.Errorf("%s: %q, want %q", tt.local, got, tt.now)
			continue
		}
		if tt.later == "" {
			continue
		}
		a, _ := mail.ParseAddress(tt.from, true)
		rs, err := comeBack(t, x, &mail.Envelope{ReversePath: a}, rs[0])
		again := strings.Join(show(rs), " ")
		if err != nil {
			e := mail.AsError("", err)
			again = fmt.Sprintf("%d %s", e.ReplyCode(), e.Status)
		}
		if again != tt.later {
			t.Errorf("%s, later: %q, want %q", tt.local, again, tt.later)
		}
	}
}

// Whose filters a final recipient has: those of the mailbox's own entry, and
// outside of our domains those of the entry that sends the mail there.
func TestOptIn(t *testing.T) {
	d := fixture()
	opts := func(more func(*directory.Entry), words ...string) func(*directory.Entry) {
		return func(e *directory.Entry) {
			e.OptIn = words
			if more != nil {
				more(e)
			}
		}
	}
	put(d, "asks", user("asks"), opts(nil, "spam", "virus"))
	put(d, "both", user("both"), opts(func(e *directory.Entry) {
		e.DeliveryOptions, e.Forwarding = []string{"mailbox", "forward"}, []string{"out@far.test", "bob@example.test"}
	}, "spam"))
	put(d, "listed", group("asks@example.test", "bob@example.test", "out@far.test"), opts(nil, "list"))
	put(d, "watched", user("watched"), opts(func(e *directory.Entry) { e.Capture = []string{"audit@far.test"} }, "spam"))
	put(d, "held", user("held"), opts(func(e *directory.Entry) { e.Defer = "yes" }, "spam"))
	routed := func(e *directory.Entry) { e.MailHost, e.RoutingAddress = "", "away@far.test" }
	put(d, "routed", user("routed"), opts(routed, "spam"))
	for _, srs := range []*SRS{nil, testSRS()} {
		x, err := New(Config{Directory: d, Pair: Pairs("pair1"), SRS: srs})
		if err != nil {
			t.Fatal(err)
		}
		for local, want := range map[string][]string{
			"bob":     {"bob@example.test"},
			"asks":    {"asks@example.test spam,virus"},
			"both":    {"bob@example.test", "both@example.test spam", "out@far.test spam"},
			"listed":  {"asks@example.test spam,virus", "bob@example.test", "out@far.test list"},
			"watched": {"audit@far.test", "watched@example.test spam"},
			"held":    {"held@example.test spam"},
			"routed":  {"away@far.test spam"},
		} {
			env := &mail.Envelope{ReversePath: mail.Address{Local: "eve", Domain: "else.test"}}
			first, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
			if err != nil {
				t.Fatal(local, err)
			}
			var got []string
			for _, r := range first {
				rs := []mail.Recipient{r}
				if r.Channel == mail.ChannelReprocess {
					if len(r.OptIn) > 0 {
						t.Errorf("%s is judged before it is looked up again", r.Address)
					}
					if rs, err = comeBack(t, x, env, r); err != nil {
						t.Fatal(local, err)
					}
				}
				for _, r := range rs {
					got = append(got, strings.TrimSpace(r.Address.String()+" "+strings.Join(r.OptIn, ",")))
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s, SRS %v: %q, want %q", local, srs != nil, got, want)
			}
		}
	}
}

// Message capture: for recipients and senders, as it is and wrapped.
func TestCapture(t *testing.T) {
	d := fixture()
	put(d, "watched", user("watched"), func(e *directory.Entry) {
		e.Capture = []string{"audit@far.test:journal", "bob@example.test", "AUDIT@far.test", "legal@far.test:dsn", "nonsense"}
	})
	put(d, "watchedtoo", user("watchedtoo"), func(e *directory.Entry) { e.Capture = []string{"nobody@example.test"} })
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	rs, got := ask(t, x, "eve@out.test", "watched")
	want := []string{"tcp_local audit@far.test", "tcp_lmtpcs pair1 bob@example.test", "reprocess legal@far.test", "tcp_lmtpcs pair1 watched@example.test"}
	if !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	for _, r := range rs[:3] {
		if r.Notify != mail.NotifyNever || len(r.Via) != 1 {
			t.Errorf("%+v", r)
		}
	}
	env := &mail.Envelope{QueueID: "q1", ReversePath: mail.Address{Local: "eve", Domain: "out.test"}}
	n, err := x.Again(t.Context(), env, rs[2], []byte("Subject: x\r\n\r\nsecret\r\n"), nil)
	if err != nil || n.Change == nil || n.ReversePath == nil || !n.ReversePath.IsNull() || len(n.Recipients) != 1 {
		t.Fatalf("%+v, %v", n, err)
	}
	wrapped, _ := n.Change([]byte("Subject: x\r\n\r\nsecret\r\n"))
	if !strings.Contains(string(wrapped), "Final-Recipient: rfc822; watched@example.test") || !strings.Contains(string(wrapped), "Subject: x\r\n\r\nsecret\r\n") {
		t.Errorf("%s", wrapped)
	}
	if rs, err = comeBack(t, x, &mail.Envelope{}, n.Recipients[0]); err != nil || !slices.Equal(show(rs), []string{"tcp_local legal@far.test"}) {
		t.Errorf("%q, %v", show(rs), err)
	}
	// A copy that cannot be made does not refuse the mail.
	if _, got := ask(t, x, "eve@out.test", "watchedtoo"); !slices.Equal(got, []string{"tcp_lmtpcs pair1 watchedtoo@example.test", "reprocess nobody@example.test"}) {
		t.Errorf("%q", got)
	}
	rs, err = x.Sender(t.Context(), &mail.Envelope{ReversePath: mail.Address{Local: "watched", Domain: "example.test"}})
	if err != nil || len(rs) != 3 {
		t.Errorf("sender: %q, %v", show(rs), err)
	}
	if rs, err = x.Sender(t.Context(), env); err != nil || len(rs) != 0 {
		t.Errorf("stranger: %q, %v", show(rs), err)
	}
}

// Rcpt and Explain are one: the same results and refusals for 1,000 addresses,
// and a last step that says the same.
func TestExplainIsRcpt(t *testing.T) {
	d := fixture()
	put(d, "opts", user("opts", "mailbox", "autoreply", "forward"), func(e *directory.Entry) {
		e.Forwarding = []string{"list@example.test"}
		e.Away = &directory.Away{Mode: "reply", Text: []directory.Tagged{{Text: "x"}}}
	})
	put(d, "rules", group("ann@example.test"), func(e *directory.Entry) {
		e.List = &directory.List{MaxAttachments: -1, AllowedDomains: []string{"a.test"}, Moderators: []string{"mailto:ann@example.test"}}
	})
	x, err := New(Config{Directory: d, Pair: Pairs("pair1"), ListLimit: 20, SRS: testSRS()})
	if err != nil {
		t.Fatal(err)
	}
	var locals []string
	for a := range d.users {
		local, _, _ := strings.Cut(a, "@")
		locals = append(locals, local)
	}
	slices.Sort(locals)
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(list []string) string { return list[rnd.IntN(len(list))] }
	domains := []string{"example.test", "EXAMPLE.test", "out.test", "held.test", "twice.test", "[192.0.2.1]"}
	refused := 0
	for range 1000 {
		local := pick(locals) + pick([]string{"", "", "+x", "-request", "%a", "zz"})
		domain := domains[0]
		if rnd.IntN(4) == 0 {
			domain = pick(domains)
		}
		env := &mail.Envelope{Size: int64(rnd.IntN(3)) * 1000}
		if s := pick([]string{"", "eve@out.test", "eve@a.test", "ann@example.test"}); s != "" {
			env.ReversePath, _ = mail.ParseAddress(s, true)
		}
		r := mail.Recipient{Address: mail.Address{Local: local, Domain: domain}}
		plain, err1 := x.Rcpt(t.Context(), env, r)
		var steps []Step
		told, err2 := x.Explain(t.Context(), env, r, func(s Step) { steps = append(steps, s) })
		if fmt.Sprint(err1) != fmt.Sprint(err2) || fmt.Sprintf("%+v", plain) != fmt.Sprintf("%+v", told) && !anyAway(plain) {
			t.Fatalf("%s: Rcpt %q, %v; Explain %q, %v", r.Address, show(plain), err1, show(told), err2)
		}
		if !slices.Equal(show(plain), show(told)) || len(steps) == 0 {
			t.Fatalf("%s: %q, %q, %d steps", r.Address, show(plain), show(told), len(steps))
		}
		last := steps[len(steps)-1]
		if err1 != nil {
			refused++
			if e := mail.AsError("", err1); last.Code != e.ReplyCode() || last.Status != e.Status {
				t.Errorf("%s: %v, last step %+v", r.Address, err1, last)
			}
		}
	}
	if refused < 100 || refused > 900 {
		t.Errorf("%d of 1000 refused", refused)
	}
}

func anyAway(rs []mail.Recipient) bool {
	return slices.ContainsFunc(rs, func(r mail.Recipient) bool { return r.Autoreply != nil })
}

func TestTexts(t *testing.T) {
	for name, text := range map[string]string{"no_such": "x", "loop": "", "too_big": "ü", "srs": "a\r\nb"} {
		if _, err := New(Config{Directory: fixture(), Pair: Pairs(), Texts: map[string]string{name: text}}); err == nil {
			t.Errorf("%s=%q taken", name, text)
		}
	}
	texts := map[string]string{}
	for _, name := range Answers() {
		texts[name] = "Own text of " + name
	}
	x, err := New(Config{Directory: fixture(), Pair: Pairs("pair1"), Texts: texts, OverQuotaTemporary: true})
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]string{"disabled": "user_disabled", "group": "group_disabled", "overquota": "overquota", "nobody": "unknown_user", "inactive": "user_inactive"} {
		_, err := x.Rcpt(t.Context(), nil, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
		if e := mail.AsError("", err); e.Reply != "Own text of "+want || local == "overquota" && (e.Code != 452 || e.Status != mail.StatusOverQuota) {
			t.Errorf("%s: %v", local, err)
		}
	}
}

// Options that lead to channels which are not there are told of, once.
func TestAbsentChannels(t *testing.T) {
	var log strings.Builder
	d := fixture()
	put(d, "prog", user("prog", "program"), nil)
	x, err := New(Config{Directory: d, Pair: Pairs("pair1"), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ask(t, x, "", "prog")
	}
	if n := strings.Count(log.String(), "channel that this release has not: program"); n != 1 {
		t.Errorf("%d alarms: %s", n, log.String())
	}
}

var errDown = errors.New("time-out")

// ownFails is a directory that fails one question.
type ownFails struct {
	*tree
	fail func() bool
}

func (d ownFails) Lookup(ctx context.Context, dom *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if d.fail() {
		return nil, errDown
	}
	return d.tree.Lookup(ctx, dom, a)
}

// Whatever question fails, the answer is a temporary one and never half a list.
func TestEveryFailure(t *testing.T) {
	for _, local := range []string{"ann", "list", "nested", "fwd", "staff-request", "members", "mods", "lang"} {
		for n := 0; ; n++ {
			d := fixture()
			put(d, "staff", group("ann@example.test"), func(e *directory.Entry) { e.List = &directory.List{RequestTo: "bob@example.test", MaxAttachments: -1} })
			put(d, "members", group("ann@example.test", "list@example.test"), func(e *directory.Entry) {
				e.List = &directory.List{MaxAttachments: -1, AllowedBroadcasters: []string{"members@example.test"}}
			})
			put(d, "mods", group("bob@example.test"), func(e *directory.Entry) {
				e.List = &directory.List{MaxAttachments: -1, Moderators: []string{"mailto:list@example.test"}}
			})
			put(d, "lang", user("lang", "mailbox", "autoreply"), func(e *directory.Entry) {
				e.Away = &directory.Away{Mode: "reply", Text: []directory.Tagged{{Language: "fr", Text: "x"}}}
			})
			calls, failed := 0, false
			x, err := New(Config{Directory: ownFails{d, func() bool { calls++; failed = failed || calls == n+1; return calls == n+1 }}, Pair: Pairs("pair1")})
			if err != nil {
				t.Fatal(err)
			}
			env := &mail.Envelope{ReversePath: mail.Address{Local: "bob", Domain: "example.test"}}
			rs, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
			if !failed {
				if err != nil || n == 0 {
					t.Errorf("%s without a failure after %d questions: %v", local, n, err)
				}
				break
			}
			if e := mail.AsError("", err); err == nil || e.ReplyCode() != 451 || e.Status != mail.StatusDirectoryFailure || len(rs) > 0 {
				t.Errorf("%s, question %d: %q, %v", local, n, show(rs), err)
			}
		}
	}
}

// Alternate addresses become the primary one, equivalent ones stay.
func TestReverse(t *testing.T) {
	d := fixture()
	e := with(user("ana"), func(e *directory.Entry) {
		e.Alternate, e.Equivalent = []string{"A.Silva@example.test", "both@example.test"}, []string{"voice@example.test", "both@example.test"}
	})
	for _, local := range []string{"ana", "a.silva", "voice", "both"} {
		d.users[local+"@example.test"] = []*directory.Entry{e}
	}
	d.users["broken@example.test"] = []*directory.Entry{with(user("x"), func(e *directory.Entry) { e.Mail, e.Alternate = "nonsense", []string{"broken@example.test"} })}
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{
		"a.silva@example.test": "ana@example.test", "ana@example.test": "ana@example.test", "voice@example.test": "voice@example.test",
		"both@example.test": "both@example.test", "a.silva@out.test": "a.silva@out.test", "nobody@example.test": "nobody@example.test",
		"two@example.test": "two@example.test", "broken@example.test": "broken@example.test", "ana+x@example.test": "ana+x@example.test",
	} {
		a, _ := mail.ParseAddress(from, true)
		if got, err := x.Reverse(t.Context(), a); err != nil || got.String() != want {
			t.Errorf("%s: %s, %v, want %s", from, got, err, want)
		}
	}
	d.away = errDown
	if got, err := x.Reverse(t.Context(), mail.Address{Local: "ana", Domain: "example.test"}); err == nil || got.Local != "ana" {
		t.Errorf("directory away: %s, %v", got, err)
	}
}

package expand

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/mail"
)

// tree is a directory in memory, for the one question at a time that expansion
// asks. The LDAP client and servers have a contract suite of their own.
type tree struct {
	directory.Directory
	users   map[string][]*directory.Entry // by address
	domains map[string]*directory.Domain  // beside the usual one
	away    error
	asked   int
}

var example = &directory.Domain{Name: "example.test"}

func (d *tree) Domain(_ context.Context, name string) (*directory.Domain, error) {
	switch {
	case d.away != nil:
		return nil, d.away
	case name == "twice.test":
		return nil, directory.ErrAmbiguous
	case name == "held.test":
		return &directory.Domain{Name: name, MailStatus: directory.Hold}, nil
	case d.domains[name] != nil:
		return d.domains[name], nil
	case name != example.Name:
		return nil, directory.ErrNotFound
	}
	return example, nil
}

func (d *tree) Lookup(_ context.Context, dom *directory.Domain, a mail.Address) (*directory.Answer, error) {
	d.asked++
	if e := d.users[a.Key()]; e != nil {
		return &directory.Answer{Entries: e}, nil
	}
	if base, detail, ok := directory.SplitDetail(a.Local, "+"); ok {
		if e := d.users[base+"@"+a.Domain]; e != nil {
			return &directory.Answer{Entries: e, Detail: detail}, nil
		}
	}
	if e := d.users["@"+a.Domain]; e != nil {
		return &directory.Answer{Entries: e, CatchAll: true}, nil
	}
	return nil, directory.ErrNotFound
}

func (d *tree) Login(_ context.Context, login string) (*directory.Entry, error) {
	if e := d.users[strings.ToLower(login)]; e != nil {
		return e[0], nil
	}
	return nil, directory.ErrNotFound
}

func (d *tree) Entry(_ context.Context, dn string) (*directory.Entry, error) {
	switch dn {
	case "cn=down":
		return nil, errors.New("time-out")
	case "ou=below":
		return &directory.Entry{DN: dn}, nil
	case "cn=outside":
		return nil, directory.ErrURL
	}
	for _, attr := range []string{"uid=", "cn="} {
		if e := d.users[strings.TrimPrefix(dn, attr)+"@example.test"]; e != nil {
			return e[0], nil
		}
	}
	return nil, directory.ErrNotFound
}

func (d *tree) Search(_ context.Context, url string, limit int) iter.Seq2[*directory.Entry, error] {
	return func(yield func(*directory.Entry, error) bool) {
		if strings.Contains(url, "evil") {
			yield(nil, directory.ErrURL)
			return
		}
		if strings.Contains(url, "below") {
			_ = yield(d.users["bob@example.test"][0], nil) && yield(d.users["ann@example.test"][0], nil)
			return
		}
		if strings.Contains(url, "self") {
			_ = yield(d.users["itself@example.test"][0], nil) && yield(d.users["bob@example.test"][0], nil)
			return
		}
		for i := range 30 {
			if i == limit {
				yield(nil, directory.ErrTooMany)
				return
			}
			if !yield(&directory.Entry{Mail: fmt.Sprintf("n%d@out.test", i)}, nil) {
				return
			}
		}
	}
}

func user(uid string, options ...string) *directory.Entry {
	return &directory.Entry{Kind: directory.User, DN: "uid=" + uid, UID: uid, Mailbox: uid + "@example.test", Mail: uid + "@example.test", MailHost: "pair1.int", DeliveryOptions: options}
}

func forward(uid string, to ...string) *directory.Entry {
	e := user(uid, "forward")
	e.Forwarding = to
	return e
}

func group(members ...string) *directory.Entry {
	return &directory.Entry{Kind: directory.Group, DN: "cn=list", Mail: "list@example.test", MemberAddresses: members}
}

func with(e *directory.Entry, f func(*directory.Entry)) *directory.Entry { f(e); return e }

func fixture() *tree {
	d := &tree{users: map[string][]*directory.Entry{}}
	put := func(local string, e ...*directory.Entry) {
		if e[0].Kind == directory.Group {
			e[0].DN = "cn=" + local
		}
		d.users[local+"@example.test"] = e
	}
	put("ann", user("ann", "mailbox"))
	put("bob", user("bob"))
	put("alias", user("ann", "mailbox"))
	put("both", with(forward("both", "eve@out.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"mailbox", "forward", "telepathy"} }))
	put("fwd", forward("fwd", "ann@example.test", "x@out.test"))
	put("ping", forward("ping", "pong@example.test"))
	put("pong", forward("pong", "ping@example.test"))
	put("chain0", user("chain0", "mailbox"))
	for i := range 12 {
		put(fmt.Sprintf("chain%d", i+1), forward(fmt.Sprintf("chain%d", i+1), fmt.Sprintf("chain%d@example.test", i)))
	}
	put("two", user("one"), user("two"))
	put("late", user("late"), with(user("gone"), func(e *directory.Entry) { e.MailStatus = directory.Deleted }))
	put("nouid", with(user(""), func(e *directory.Entry) {}))
	put("nohost", with(user("nohost"), func(e *directory.Entry) { e.MailHost = "elsewhere" }))
	for s, name := range map[directory.Status]string{directory.Inactive: "inactive", directory.Disabled: "disabled", directory.Deleted: "deleted", directory.Hold: "hold", directory.OverQuota: "overquota"} {
		put(name, with(user(name), func(e *directory.Entry) { e.MailStatus = s }))
	}
	put("list", group("ann@example.test", "bob@example.test", "not an address", "nobody@example.test", "z@out.test"))
	put("nested", group("list@example.test", "nested@example.test", "ann@example.test"))
	put("dns", with(group(), func(e *directory.Entry) { e.MemberDNs = []string{"uid=ann", "uid=missing"} }))
	put("half", with(group("ann@example.test"), func(e *directory.Entry) { e.MemberDNs = []string{"cn=down"} }))
	put("dynamic", with(group(), func(e *directory.Entry) { e.MemberURLs = []string{"ldap:///o=isp??sub"} }))
	put("evil", with(group(), func(e *directory.Entry) { e.MemberURLs = []string{"ldap://evil/"} }))
	put("ruled", with(group("ann@example.test"), func(e *directory.Entry) {
		e.List = &directory.List{MaxAttachments: -1, AllowedDomains: []string{"*.inside.test"}}
	}))
	// What must not be lost.
	put("loopreply", with(forward("loopreply", "ping@example.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"forward", "autoreply"} }))
	put("self", forward("self", "self@example.test"))
	put("nowhere", forward("nowhere"))
	put("broken", forward("broken", "not an address"))
	put("dead", group("nobody@example.test", "deleted@example.test"))
	put("sleepy", group("inactive@example.test", "nobody@example.test"))
	put("mixed", group("inactive@example.test", "ann@example.test", "nohost@example.test"))
	put("fwdbad", forward("fwdbad", "nobody@example.test"))
	put("keepbad", with(forward("keepbad", "nobody@example.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"Mailbox ", "FORWARD"} }))
	put("empty", group())
	put("helds", group("hold@example.test", "ann@example.test"))
	put("offline", with(group("ann@example.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"members_offline"} }))
	put("onhold", user("onhold", "hold", "mailbox"))
	put("deep", group("chain9@example.test", "chain10@example.test"))
	put("subs", group("ann+a@example.test", "ann+b@example.test", "ann@example.test", "ann@example.test"))
	put("itself", with(group(), func(e *directory.Entry) { e.MemberURLs = []string{"ldap:///self??sub?(a=b)"} }))
	put("tree", with(group(), func(e *directory.Entry) { e.MemberDNs = []string{"ou=below", "uid=ann"} }))
	put("unused", with(user("unused"), func(e *directory.Entry) { e.MailStatus = directory.Unused }))
	put("group", with(group("ann@example.test"), func(e *directory.Entry) { e.MailStatus = directory.Disabled }))
	// Lists that all name each other, with subaddresses: as many ways as there
	// are permutations.
	for i := range 12 {
		var all []string
		for j := range 12 {
			all = append(all, fmt.Sprintf("web%d+%d@example.test", j, i), fmt.Sprintf("web%d@example.test", j))
		}
		put(fmt.Sprintf("web%d", i), group(append(all, "ann@example.test")...))
	}
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("m%d@out.test", i))
	}
	put("many", group(many...))
	return d
}

// comeBack takes r through the channel reprocess once.
func comeBack(t testing.TB, x *Expander, env *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	t.Helper()
	n, err := x.Again(t.Context(), env, r, []byte("Subject: hi\r\n\r\nhello\r\n"), nil)
	if err != nil {
		return nil, err
	}
	if n.Change != nil {
		t.Errorf("%s: changed", r.Address)
	}
	return n.Recipients, nil
}

func show(rs []mail.Recipient) (out []string) {
	for _, r := range rs {
		s := string(r.Channel) + " "
		if r.Channel == mail.ChannelLMTP {
			s += r.NextHop + " " + r.Mailbox
			if r.Folder != "" {
				s += "/" + r.Folder
			}
		} else {
			s += r.Address.String()
		}
		out = append(out, s)
	}
	return out
}

func TestRcpt(t *testing.T) {
	d := fixture()
	x, err := New(Config{Directory: d, ListLimit: 50, Pair: func(h string) (string, bool) {
		label, _, _ := strings.Cut(h, ".")
		return label, label == "pair1"
	}})
	if err != nil {
		t.Fatal(err)
	}
	ann, bob := "tcp_lmtpcs pair1 ann@example.test", "tcp_lmtpcs pair1 bob@example.test"
	for to, want := range map[string][]string{
		"loopreply@example.test":      {"550 5.4.6"},
		"self@example.test":           {"550 5.4.6"},
		"nowhere@example.test":        {"451 4.3.5"},
		"broken@example.test":         {"451 4.3.5"},
		"dead@example.test":           {"550 5.1.1"},
		"sleepy@example.test":         {"450 4.2.1"},
		"mixed@example.test":          {ann, "reprocess inactive@example.test", "reprocess nohost@example.test"},
		"fwdbad@example.test":         {"550 5.1.1"},
		"keepbad@example.test":        {"tcp_lmtpcs pair1 keepbad@example.test", "reprocess nobody@example.test"},
		"empty@example.test":          {"550 5.2.4"},
		"helds@example.test":          {"hold hold@example.test", ann},
		"offline@example.test":        {"reprocess offline@example.test"},
		"onhold@example.test":         {"hold onhold@example.test"},
		"deep@example.test":           {"tcp_lmtpcs pair1 chain0@example.test"},
		"subs@example.test":           {ann + "/a", ann + "/b", ann},
		"tree@example.test":           {bob, ann},
		"unused@example.test":         {"550 5.1.1"},
		"group@example.test":          {"550 5.2.1"},
		"web0@example.test":           {ann},
		"ann@example.test":            {ann},
		"ANN@Example.Test":            {ann},
		"alias@example.test":          {ann},
		"bob@example.test":            {bob},
		"ann+Work@example.test":       {ann + "/Work"},
		"someone@out.test":            {"tcp_local someone@out.test"},
		"both@example.test":           {"tcp_lmtpcs pair1 both@example.test", "tcp_local eve@out.test"},
		"fwd@example.test":            {ann, "tcp_local x@out.test"},
		"list@example.test":           {ann, bob, "tcp_local z@out.test", "reprocess nobody@example.test"},
		"nested@example.test":         {ann, bob, "tcp_local z@out.test", "reprocess nobody@example.test"},
		"dns@example.test":            {ann},
		"many@example.test":           {"reprocess many@example.test"},
		"hold@example.test":           {"hold hold@example.test"},
		"late@example.test":           {"tcp_lmtpcs pair1 late@example.test"},
		"chain9@example.test":         {"tcp_lmtpcs pair1 chain0@example.test"},
		"nobody@example.test":         {"550 5.1.1"},
		"ping@example.test":           {"550 5.4.6"},
		"chain12@example.test":        {"550 5.4.6"},
		"two@example.test":            {"550 5.1.4"},
		"nouid@example.test":          {"451 4.3.5"},
		"nohost@example.test":         {"451 4.3.5"},
		"inactive@example.test":       {"450 4.2.1"},
		"disabled@example.test":       {"550 5.2.1"},
		"deleted@example.test":        {"550 5.1.6"},
		"overquota@example.test":      {"552 5.2.2"},
		"half@example.test":           {"451 4.4.3"},
		"evil@example.test":           {"451 4.3.5"},
		"itself@example.test":         {"tcp_lmtpcs pair1 bob@example.test"}, // a loop by a search
		"ruled@example.test":          {"550 5.7.1"},
		"x@twice.test":                {"451 4.4.3"},
		"x@held.test":                 {"hold x@held.test"},
		`"ann@out.test"@example.test`: {"550 5.1.1"},
		"ann%out.test@example.test":   {"550 5.1.1"},
		`"*)(mail=*"@example.test`:    {"550 5.1.1"},
		"x@[192.0.2.1]":               {"550 5.1.2"},
	} {
		a, err := mail.ParseAddress(to, true)
		if err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		rs, err := x.Rcpt(context.Background(), &mail.Envelope{}, mail.Recipient{Address: a})
		got := show(rs)
		if err != nil {
			e := mail.AsError("test", err)
			got = []string{fmt.Sprintf("%d %s", e.ReplyCode(), e.Status)}
			if len(rs) > 0 {
				t.Errorf("%s: recipients beside an error", to)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", to, got, want)
		}
	}
	rs, _ := x.Rcpt(context.Background(), &mail.Envelope{}, mail.Recipient{Address: mail.Address{Local: "nested", Domain: "example.test"}})
	if via := rs[0].Via; !slices.Equal(via, []string{"nested@example.test", "list@example.test"}) || rs[0].ListName != "list@example.test" {
		t.Errorf("via %q, list %q", via, rs[0].ListName)
	}
}

// What came by the channel reprocess keeps its path: it neither goes round nor
// grows past the limit of steps there.
func TestPathSurvivesReprocessing(t *testing.T) {
	x, err := New(Config{Directory: fixture(), ListLimit: 10, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(local string, via ...string) string {
		r := mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}, Via: via}
		rs, err := comeBack(t, x, &mail.Envelope{}, r)
		if err != nil {
			return mail.AsError("test", err).Status.String()
		}
		return strings.Join(show(rs), ", ")
	}
	if got := ask("fwdbad", "nobody@example.test"); got != "5.4.6" {
		t.Errorf("a forward back to where it came from: %s", got)
	}
	var long []string
	for i := range MaxDepth + 1 {
		long = append(long, fmt.Sprintf("l%d@example.test", i))
	}
	if got := ask("ann", long...); got != "5.4.6" {
		t.Errorf("after %d steps: %s", len(long), got)
	}
	if got := ask("ann", long[:MaxDepth]...); got != "tcp_lmtpcs pair1 ann@example.test" {
		t.Errorf("after %d steps: %s", MaxDepth, got)
	}
	// A branch that is too deep ends up there, and is bounced there.
	rs, err := comeBack(t, x, &mail.Envelope{}, mail.Recipient{Address: mail.Address{Local: "deeper", Domain: "example.test"}})
	if err == nil {
		t.Fatalf("deeper: %v", show(rs))
	}
	d := x.cfg.Directory.(*tree)
	d.users["deeper@example.test"] = []*directory.Entry{with(group("ann@example.test", "chain10@example.test"), func(e *directory.Entry) { e.DN = "cn=deeper" })}
	rs, err = x.Rcpt(t.Context(), nil, mail.Recipient{Address: mail.Address{Local: "deeper", Domain: "example.test"}})
	if err != nil || len(rs) != 2 || rs[1].Channel != mail.ChannelReprocess {
		t.Fatalf("deeper: %v, %v", show(rs), err)
	}
	if _, err := comeBack(t, x, &mail.Envelope{}, rs[1]); !mail.Permanent(err) || mail.AsError("", err).Status != mail.StatusLoop {
		t.Errorf("the branch that was too deep, again: %v", err)
	}
}

func TestPairs(t *testing.T) {
	pair := Pairs("pair1", "Two.store.int")
	for host, want := range map[string]string{
		"pair1": "pair1", "PAIR1.any.where": "pair1", "two.store.int": "Two.store.int",
		"two": "", "pair10": "", "": "", ".pair1": "", "x.pair1": "",
	} {
		if got, ok := pair(host); got != want || ok != (want != "") {
			t.Errorf("%q = %q, %v, want %q", host, got, ok, want)
		}
	}
}

func TestAlarmsOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		x, err := New(Config{Directory: fixture(), Pair: Pairs("pair1"), Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(local string, want int) {
			t.Helper()
			x.Rcpt(t.Context(), nil, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
			if n := strings.Count(log.String(), "level=ERROR"); n != want {
				t.Errorf("%s: %d alarms, want %d:\n%s", local, n, want, log.String())
			}
		}
		ask("nohost", 1)
		ask("nohost", 1)
		ask("nouid", 2)
		ask("two", 3)
		time.Sleep(59 * time.Minute)
		ask("nohost", 3)
		time.Sleep(2 * time.Minute)
		ask("nohost", 4)
		for i := range 3 * maxAlarms {
			x.alarms.raise("x", fmt.Sprint(i), mail.Address{}, nil)
		}
		if len(x.alarms.last) > maxAlarms {
			t.Errorf("%d alarms remembered", len(x.alarms.last))
		}
	})
}

func TestExplain(t *testing.T) {
	x, err := New(Config{Directory: fixture(), Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	_, err = x.Explain(t.Context(), nil, mail.Recipient{Address: mail.Address{Local: "fwd", Domain: "example.test"}}, func(s Step) {
		steps = append(steps, fmt.Sprintf("%d %s %s: %s", s.Depth, s.Address, s.DN, s.Text))
	})
	want := []string{
		"0 fwd@example.test uid=fwd: user, status active",
		"1 ann@example.test uid=fwd: forwarded",
		"1 ann@example.test uid=ann: user, status active",
		"1 ann@example.test : delivery by channel tcp_lmtpcs to pair1 ann@example.test",
		"1 x@out.test uid=fwd: forwarded",
		"1 x@out.test : domain is not ours",
		"1 x@out.test : delivery by channel tcp_local to out.test",
	}
	if err != nil || !slices.Equal(steps, want) {
		t.Errorf("%v\n%s", err, strings.Join(steps, "\n"))
	}
}

// A user who is known to the cache costs one look-up and one allocation, the
// result.
func TestAllocations(t *testing.T) {
	x, err := New(Config{Directory: cache.New(fixture(), cache.Config{}), Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]float64{"ann": 1, "alias": 1, "ann+Work": 1} {
		r := mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}}
		n := testing.AllocsPerRun(100, func() {
			if _, err := x.Rcpt(context.Background(), nil, r); err != nil {
				t.Fatal(err)
			}
		})
		if n > want {
			t.Errorf("%s: %v allocations, want %v", local, n, want)
		}
	}
}

// On real servers: cache, LDAP client, server and fixture together.
func TestServers(t *testing.T) {
	for name, start := range map[string]func(testing.TB, []byte) dirtest.Server{
		"embedded": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
		"OpenLDAP": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
	} {
		t.Run(name, func(t *testing.T) {
			d := cache.New(dirtest.Dial(t, start(t, dirtest.Tree())), cache.Config{})
			x, err := New(Config{Directory: d, Pair: Pairs("pair1", "pair2", "pair3")})
			if err != nil {
				t.Fatal(err)
			}
			ask := func(to string) ([]mail.Recipient, error) {
				a, err := mail.ParseAddress(to, true)
				if err != nil {
					t.Fatal(err)
				}
				return x.Rcpt(t.Context(), nil, mail.Recipient{Address: a})
			}
			for to, want := range map[string][]string{
				"u0001@example.org":           {"tcp_lmtpcs pair1 u0001@example.org"},
				"u0002@ALIAS.example.org":     {"tcp_lmtpcs pair2 u0002@example.org"},
				"first.0010@example.org":      {"tcp_lmtpcs pair1 u0010@example.org"},
				"Voice.0005+Work@example.org": {"tcp_lmtpcs pair2 u0005@example.org/Work"},
				"forward@example.org":         {"tcp_lmtpcs pair1 u0001@example.org"},
				"postmaster@example.org":      {"tcp_lmtpcs pair1 u0001@example.org"},
				"ana@example.com":             {"hold ana@example.com"},
				"x@example.net":               {"tcp_local x@example.net"},
			} {
				rs, err := ask(to)
				if got := show(rs); err != nil || !slices.Equal(got, want) {
					t.Errorf("%s: %q, %v, want %q", to, got, err, want)
				}
			}
			for list, want := range map[string]int{"team@example.org": 5, "list@example.org": 1000, "dynamic@example.org": 401} {
				for range 2 {
					rs, err := ask(list)
					if err != nil || len(rs) != want && list != "dynamic@example.org" || len(rs) < want {
						t.Errorf("%s: %d recipients, %v, want %d", list, len(rs), err, want)
					}
				}
			}
			if rs, err := ask("shared@example.org"); mail.AsError("", err).Status != mail.StatusAmbiguous {
				t.Errorf("shared: %v, %v", show(rs), err)
			}
			if rs, err := ask("bob@example.org"); mail.AsError("", err).Code != 450 {
				t.Errorf("an inactive user: %v, %v", show(rs), err)
			}
			// With everything known, the directory is not asked again.
			before := d.Stats().Misses
			for _, to := range []string{"u0001@example.org", "list@example.org", "forward@example.org", "x@example.net"} {
				if _, err := ask(to); err != nil {
					t.Error(err)
				}
			}
			if n := d.Stats().Misses - before; n != 0 {
				t.Errorf("%d questions for what is known", n)
			}
		})
	}
}

// FuzzRcpt looks for a recipient that panics, or that is accepted for nobody.
func FuzzRcpt(f *testing.F) {
	for _, s := range []string{"ann@example.test", "list@example.test", "web3+x@example.test", `"*)(mail=*"@example.test`, "a%b@example.test", "x@[1.2.3.4]", "é@münchen.test", "ann+@example.test", "fwd+a+b@example.test"} {
		f.Add(s)
	}
	x, err := New(Config{Directory: cache.New(fixture(), cache.Config{}), Pair: Pairs("pair1")})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := mail.ParseAddress(s, true)
		if err != nil {
			return
		}
		rs, err := x.Rcpt(context.Background(), nil, mail.Recipient{Address: a})
		if (err == nil) != (len(rs) > 0) {
			t.Errorf("%q: %d recipients, %v", s, len(rs), err)
		}
		for _, r := range rs {
			if r.Channel == "" || r.Channel == mail.ChannelLMTP && (r.Mailbox == "" || r.NextHop == "") {
				t.Errorf("%q: unfinished recipient %+v", s, r)
			}
		}
	})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func BenchmarkRcpt(b *testing.B) {
	x, err := New(Config{Directory: cache.New(fixture(), cache.Config{}), Pair: Pairs("pair1")})
	if err != nil {
		b.Fatal(err)
	}
	for name, local := range map[string]string{"user": "ann", "subaddress": "ann+work", "forward": "fwd", "list": "list"} {
		r := mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.Rcpt(context.Background(), nil, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestReprocessing(t *testing.T) {
	d := fixture()
	x, err := New(Config{Directory: d, ListLimit: 10, Pair: func(string) (string, bool) { return "pair1", true }})
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]int{"many": 60, "dynamic": 30} {
		rs, err := comeBack(t, x, &mail.Envelope{}, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
		if err != nil || len(rs) != want {
			t.Errorf("%s: %d recipients, %v", local, len(rs), err)
		}
	}
}

func TestDirectoryAway(t *testing.T) {
	d := fixture()
	d.away = directory.ErrUnavailable
	x, err := New(Config{Directory: d, Pair: func(string) (string, bool) { return "pair1", true }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Rcpt(context.Background(), nil, mail.Recipient{Address: mail.Address{Local: "ann", Domain: "example.test"}})
	if e := mail.AsError("test", err); e.ReplyCode() != 451 || e.Status != mail.StatusDirectoryFailure || mail.Permanent(err) {
		t.Errorf("directory away: %v", err)
	}
}

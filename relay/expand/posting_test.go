package expand

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// post sends a message to a list of example.test, through the channel reprocess
// as often as it takes, and returns who got it, or the refusal. A copy that
// the list made is returned as well.
func post(t testing.TB, x *Expander, from, login, to, msg string) (got []string, copied string) {
	t.Helper()
	env := &mail.Envelope{AuthUser: login, Size: int64(len(msg))}
	if from != "" {
		env.ReversePath, _ = mail.ParseAddress(from, true)
	}
	refused := func(err error) []string {
		e := mail.AsError("", err)
		return []string{fmt.Sprintf("%d %s %s", e.ReplyCode(), e.Status, e.Reply)}
	}
	rs, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: mail.Address{Local: to, Domain: "example.test"}})
	if err != nil {
		return refused(err), ""
	}
	for n := 0; len(rs) > 0; n++ {
		if n > 100 {
			t.Fatalf("%s: no end", to)
		}
		r := rs[0]
		rs = rs[1:]
		if r.Channel != mail.ChannelReprocess {
			got = append(got, r.Address.Local)
			continue
		}
		next, err := x.Again(t.Context(), env, r, []byte(msg), nil)
		if err != nil {
			return append(got, refused(err)...), copied
		}
		if next.Change != nil {
			changed, _ := next.Change([]byte(msg))
			msg, copied = string(changed), string(changed)
		}
		if next.ReversePath != nil {
			env.ReversePath = *next.ReversePath
		}
		rs = append(rs, next.Recipients...)
	}
	slices.Sort(got)
	return got, copied
}

func rules(f func(*directory.List)) func(*directory.Entry) {
	return func(e *directory.Entry) {
		e.List = &directory.List{MaxAttachments: -1}
		f(e.List)
	}
}

func words(s string) []string { return strings.Split(s, ", ") }

const short = "From: x\r\nTo: list@example.test\r\nSubject: hi\r\n\r\nhello\r\n"

func postingTree() *tree {
	d := fixture()
	put(d, "open", group("ann@example.test"), nil)
	put(d, "team", group("ann@example.test"), func(e *directory.Entry) { e.MemberDNs = []string{"uid=bob"} })
	all := func(name string, f func(*directory.List)) {
		put(d, name, group("ann@example.test", "bob@example.test"), rules(f))
	}
	all("auth", func(l *directory.List) { l.Policy = words("smtp_auth_required") })
	all("authdom", func(l *directory.List) { l.Policy, l.AllowedDomains = words("AUTH_USED"), words("example.test") })
	all("domain", func(l *directory.List) { l.AllowedDomains = words("*.ok.test, ok.test, o?.net") })
	all("domainpw", func(l *directory.List) { l.AllowedDomains, l.Password = words("ok.test"), "s3cret" })
	all("domain+name", func(l *directory.List) {
		l.AllowedDomains, l.AllowedBroadcasters = words("ok.test"), words("mailto:eve@far.test")
	})
	all("notdomain", func(l *directory.List) { l.DisallowedDomains = words("*.bad.test, bad.test") })
	all("named", func(l *directory.List) {
		l.AllowedBroadcasters = words("mailto:eve@far.test, ldap:///uid=ann, mailto:team@example.test")
	})
	all("found", func(l *directory.List) { l.AllowedBroadcasters = words("ldap:///ou=below??sub?(mail=*)") })
	all("brokenurl", func(l *directory.List) { l.AllowedBroadcasters = words("http://x, mailto:eve@far.test") })
	all("selfurl", func(l *directory.List) { l.AllowedBroadcasters = words("ldap:///cn=itself") })
	all("evilurl", func(l *directory.List) { l.AllowedBroadcasters = words("ldap://evil/x??sub?(a=b)") })
	all("notnamed", func(l *directory.List) { l.DisallowedBroadcasters = words("mailto:eve@far.test, ldap:///uid=ann") })
	all("notbroken", func(l *directory.List) { l.DisallowedBroadcasters = words("junk") })
	all("small", func(l *directory.List) { l.MaxSize = 60 })
	all("fewfiles", func(l *directory.List) { l.MaxAttachments = 1 })
	all("pw", func(l *directory.List) { l.Password = "s3cret" })
	all("pwpolicy", func(l *directory.List) { l.Policy, l.Password = words("PASSWD_REQ"), "s3cret" })
	all("nopw", func(l *directory.List) { l.Policy = words("PASSWORD_REQUIRED") })
	all("either", func(l *directory.List) {
		l.Policy, l.AllowedDomains, l.AllowedBroadcasters, l.Password = words("OR, odd"), words("ok.test"), words("mailto:eve@far.test"), "s3cret"
	})
	all("eithersmall", func(l *directory.List) { l.Policy, l.AllowedDomains, l.MaxSize = words("OR"), words("ok.test"), 60 })
	all("orbad", func(l *directory.List) {
		l.Policy, l.DisallowedDomains, l.AllowedBroadcasters = words("OR"), words("bad.test"), words("mailto:eve@bad.test")
	})
	all("text", func(l *directory.List) { l.AllowedDomains, l.RejectText = words("ok.test"), "Ask the office" })
	all("mod", func(l *directory.List) { l.Moderators = words("mailto:bob@example.test") })
	all("modpw", func(l *directory.List) { l.Moderators, l.Password = words("mailto:bob@example.test"), "s3cret" })
	all("modteam", func(l *directory.List) { l.Moderators = words("mailto:team@example.test, ldap:///uid=ann") })
	all("tomod", func(l *directory.List) {
		l.RejectAction, l.AllowedDomains, l.Moderators = "tomoderator", words("ok.test"), words("mailto:bob@example.test")
	})
	all("tomodnobody", func(l *directory.List) { l.RejectAction, l.AllowedDomains = "tomoderator", words("ok.test") })
	put(d, "members", group("ann@example.test", "x@far.test"), func(e *directory.Entry) {
		e.MemberDNs = []string{"uid=chain0"}
		rules(func(l *directory.List) { l.AllowedBroadcasters = words("mailto:members@example.test") })(e)
	})
	put(d, "subtree", group(), func(e *directory.Entry) {
		e.MemberDNs = []string{"OU=staff, o=x"}
		rules(func(l *directory.List) { l.AllowedBroadcasters = words("mailto:subtree@example.test") })(e)
	})
	put(d, "below", user("below"), func(e *directory.Entry) { e.DN = "uid=below,ou=staff,o=x" })
	put(d, "outer", group("domain@example.test", "bob@example.test"), nil)
	return d
}

func TestPosting(t *testing.T) {
	x, err := New(Config{Directory: postingTree(), Pair: Pairs("pair1"), Texts: map[string]string{
		ansDomain: "domain", ansAuth: "auth", ansSender: "sender", ansPassword: "password", ansListSize: "size", ansAttachments: "files",
	}})
	if err != nil {
		t.Fatal(err)
	}
	const both = "ann bob"
	long := short + strings.Repeat("x", 60) + "\r\n"
	approved := "Approved: s3cret\r\n" + short
	files := func(n int) string {
		return "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n" +
			strings.Repeat("--b\r\nContent-Type: image/png; name=x\r\n\r\nx\r\n", n) + "--b--\r\n"
	}
	for _, tt := range []struct{ to, from, login, msg, want string }{
		{"open", "a@any.test", "", short, "ann"},
		{"auth", "ann@example.test", "", short, "550 5.7.1 auth"},
		{"auth", "x@any.test", "ann@example.test", short, both},
		{"authdom", "x@any.test", "ann@example.test", short, both},
		{"authdom", "x@any.test", "", short, "550 5.7.1 domain"},
		{"authdom", "x@example.test", "", short, both},
		{"domain", "a@ok.test", "", short, both},
		{"domain", "a@Sub.OK.test", "", short, both},
		{"domain", "a@or.net", "", short, both},
		{"domain", "a@notok.test", "", short, "550 5.7.1 domain"},
		{"domain", "", "", short, "550 5.7.1 domain"},
		{"domainpw", "a@far.test", "", short, "550 5.7.1 domain"}, // both fail: the first row answers
		{"domainpw", "a@ok.test", "", short, "550 5.7.1 password"},
		{"domainpw", "a@ok.test", "", approved, both},
		{"domain+name", "eve@far.test", "", short, both},
		{"domain+name", "ann@ok.test", "", short, "550 5.7.1 sender"},
		{"domain+name", "ann@far.test", "", short, "550 5.7.1 domain"},
		{"notdomain", "a@ok.test", "", short, both},
		{"notdomain", "a@x.bad.test", "", short, "550 5.7.1 domain"},
		{"named", "Eve@far.test", "", short, both},
		{"named", "ann@example.test", "", short, both},
		{"named", "alias@example.test", "", short, both}, // another address of hers
		{"named", "bob@example.test", "", short, both},   // by way of the team, by name
		{"named", "both@example.test", "", short, "550 5.7.1 sender"},
		{"named", "", "", short, "550 5.7.1 sender"},
		{"found", "bob@example.test", "", short, both},
		{"found", "x@far.test", "", short, "550 5.7.1 sender"},
		{"brokenurl", "eve@far.test", "", short, "550 5.7.1 sender"},
		{"evilurl", "eve@far.test", "", short, "550 5.7.1 sender"},
		{"selfurl", "bob@example.test", "", short, both}, // a group that its own search finds
		{"selfurl", "eve@far.test", "", short, "550 5.7.1 sender"},
		{"notnamed", "eve@far.test", "", short, "550 5.7.1 sender"},
		{"notnamed", "alias@example.test", "", short, "550 5.7.1 sender"},
		{"notnamed", "bob@example.test", "", short, both},
		{"notbroken", "bob@example.test", "", short, "550 5.7.1 sender"},
		{"small", "a@b.test", "", long, "552 5.2.3 size"},
		{"small", "a@b.test", "", short, both},
		{"fewfiles", "a@b.test", "", files(1), both},
		{"fewfiles", "a@b.test", "", files(2), "550 5.7.1 files"},
		{"pw", "a@b.test", "", short, "550 5.7.1 password"},
		{"pw", "a@b.test", "", "Approved: s3cre\r\n" + short, "550 5.7.1 password"},
		{"pw", "a@b.test", "", approved, both},
		{"pwpolicy", "a@b.test", "", approved, both},
		{"pwpolicy", "a@b.test", "", short, "550 5.7.1 password"},
		{"nopw", "a@b.test", "", "Approved: \r\n" + short, "550 5.7.1 password"},
		{"either", "a@ok.test", "", short, both},
		{"either", "eve@far.test", "", short, both},
		{"either", "a@far.test", "", approved, both},
		{"either", "a@far.test", "", short, "550 5.7.1 domain"},
		{"eithersmall", "a@ok.test", "", long, "552 5.2.3 size"},
		{"orbad", "eve@bad.test", "", short, both},
		{"orbad", "ann@bad.test", "", short, "550 5.7.1 domain"},
		{"text", "a@far.test", "", short, "550 5.7.1 Ask the office"},
		{"mod", "a@far.test", "", short, "bob"},
		{"mod", "bob@example.test", "", short, both},
		{"modpw", "a@far.test", "", short, "bob"},
		{"modpw", "a@far.test", "", approved, both},
		{"modteam", "a@far.test", "", short, both}, // the moderators, that is
		{"tomod", "a@far.test", "", short, "bob"},
		{"tomod", "a@ok.test", "", short, "bob"},
		{"tomod", "bob@example.test", "", short, both},
		{"tomodnobody", "a@far.test", "", short, "550 5.7.1 domain"},
		{"members", "ann@example.test", "", short, "ann chain0 x"},
		{"members", "x@far.test", "", short, "ann chain0 x"},
		{"members", "chain0@example.test", "", short, "ann chain0 x"},
		{"members", "bob@example.test", "", short, "550 5.7.1 sender"},
		{"subtree", "below@example.test", "", short, "550 5.2.4 List has no members"}, // allowed, and nobody is there
		{"subtree", "ann@example.test", "", short, "550 5.7.1 sender"},
		{"outer", "a@ok.test", "", short, both},
		{"outer", "a@far.test", "", short, "bob 550 5.7.1 domain"}, // the inner list has rules of its own
	} {
		got, copied := post(t, x, tt.from, tt.login, tt.to, tt.msg)
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s from %q (%s): %q, want %q", tt.to, tt.from, tt.login, s, tt.want)
		}
		if strings.Contains(copied, "s3cret") {
			t.Errorf("%s: the password is passed on", tt.to)
		}
	}
}

// The moderators' copy carries the list's address and nothing else of the
// list's; what a moderator sends again goes to the members with the list's
// changes.
func TestModeration(t *testing.T) {
	d := postingTree()
	put(d, "news", group("ann@example.test", "z@far.test"), func(e *directory.Entry) {
		e.ErrorsTo = "bob@example.test"
		rules(func(l *directory.List) {
			l.Moderators, l.SubjectTag, l.Suffix = words("mailto:bob@example.test"), "[news]", "-- news\n"
		})(e)
	})
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	got, copied := post(t, x, "eve@out.test", "", "news", short)
	if !slices.Equal(got, []string{"bob"}) || copied != "X-Original-To: news@example.test\r\n"+short {
		t.Errorf("%q\n%s", got, copied)
	}
	got, copied = post(t, x, "bob@example.test", "", "news", short)
	if !slices.Equal(got, []string{"ann", "z"}) || !strings.Contains(copied, "Subject: [news] hi") || !strings.HasSuffix(copied, "-- news\r\n") {
		t.Errorf("%q\n%s", got, copied)
	}
}

// At RCPT what can be decided is decided: who may not post is refused there, who
// may goes through without a detour.
func TestPostingAtRcpt(t *testing.T) {
	x, err := New(Config{Directory: postingTree(), Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		local, from string
		size        int64
		want        string
	}{
		{"domain", "a@ok.test", 0, "tcp_lmtpcs pair1 ann@example.test"},
		{"domainpw", "a@far.test", 0, "550 5.7.1"},
		{"domainpw", "a@ok.test", 0, "reprocess domainpw@example.test"},
		{"small", "a@b.test", 61, "552 5.2.3"},
		{"small", "a@b.test", 0, "reprocess small@example.test"},
		{"small", "a@b.test", 60, "reprocess small@example.test"}, // what is announced is not what comes
		{"mod", "bob@example.test", 0, "tcp_lmtpcs pair1 ann@example.test"},
		{"mod", "a@b.test", 0, "reprocess mod@example.test"},
		{"either", "a@far.test", 0, "reprocess either@example.test"},
	} {
		env := &mail.Envelope{Size: tt.size}
		env.ReversePath, _ = mail.ParseAddress(tt.from, true)
		rs, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: mail.Address{Local: tt.local, Domain: "example.test"}})
		got := ""
		if err != nil {
			e := mail.AsError("", err)
			got = fmt.Sprintf("%d %s", e.ReplyCode(), e.Status)
		} else {
			got = show(rs)[0]
		}
		if got != tt.want {
			t.Errorf("%s of %d from %s: %q, want %q", tt.local, tt.size, tt.from, got, tt.want)
		}
	}
}

// A list can let its members have the message once for each way it comes.
func TestNoDuplicateChecks(t *testing.T) {
	d := fixture()
	put(d, "inner", group("ann@example.test", "z@far.test"), nil)
	put(d, "each", group("ann@example.test", "z@far.test", "inner@example.test"), rules(func(l *directory.List) { l.NoDuplicateChecks = true }))
	put(d, "once", group("ann@example.test", "z@far.test", "inner@example.test"), nil)
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{Origin: "r1", RootID: "root"}
	keys := func(local string) map[mail.DeliveryKey]bool {
		rs, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
		if err != nil {
			t.Fatal(err)
		}
		out := map[mail.DeliveryKey]bool{}
		for _, r := range rs {
			if r.Key == (mail.DeliveryKey{}) { // as the door does
				r.Key = mail.NewDeliveryKey(env.Origin, env.RootID, nameOf(&r))
			}
			out[r.Key] = true
		}
		return out
	}
	if n := len(keys("each")); n != 4 {
		t.Errorf("%d copies, want 4", n)
	}
	if n := len(keys("once")); n != 2 {
		t.Errorf("%d copies, want 2", n)
	}
	// The same by the channel reprocess, in pieces.
	x.cfg.ListLimit, x.cfg.ChunkSize = 1, 1
	r := mail.Recipient{Address: mail.Address{Local: "each", Domain: "example.test"}}
	total := map[mail.DeliveryKey]bool{}
	for n := 0; ; n++ {
		rs, err := comeBack(t, x, env, r)
		if err != nil || n > 10 {
			t.Fatal(err, n)
		}
		for _, f := range rs {
			if f.Channel != mail.ChannelReprocess {
				if f.Key == (mail.DeliveryKey{}) {
					f.Key = mail.NewDeliveryKey(env.Origin, env.RootID, nameOf(&f))
				}
				total[f.Key] = true
			}
		}
		if len(rs) < 2 {
			break
		}
		r = rs[len(rs)-1]
	}
	if len(total) != 4 {
		t.Errorf("%d copies in pieces, want 4", len(total))
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		p, s string
		want bool
	}{
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"a*", "a", true},
		{"*a", "ba", true},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "axxbyy", false},
		{"a?c", "abc", true},
		{"a%c", "ac", false},
		{"*.x", "a.b.x", true},
		{strings.Repeat("*a", 50), strings.Repeat("a", 49), false},
	} {
		if got := glob(tt.p, tt.s); got != tt.want {
			t.Errorf("glob(%q, %q) = %v", tt.p, tt.s, got)
		}
	}
}

// FuzzGlob compares with the slow and simple way.
func FuzzGlob(f *testing.F) {
	f.Add("*.x?%", "a.xbc")
	var slow func(p, s string) bool
	slow = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return slow(p[1:], s) || s != "" && slow(p, s[1:])
		case s == "":
			return false
		}
		return (p[0] == '?' || p[0] == '%' || p[0] == s[0]) && slow(p[1:], s[1:])
	}
	f.Fuzz(func(t *testing.T, p, s string) {
		if len(p) > 8 || len(s) > 12 {
			return
		}
		if glob(p, s) != slow(p, s) {
			t.Errorf("glob(%q, %q) = %v", p, s, glob(p, s))
		}
	})
}

// Whoever may post to a list reaches all of it: rules that change while its
// pieces go out do not cut it in half.
func TestRulesOncePerList(t *testing.T) {
	d := fixture()
	var members []string
	for i := range 5 {
		members = append(members, fmt.Sprintf("m%d@far.test", i))
	}
	l := &directory.List{MaxAttachments: -1, AllowedDomains: words("ok.test")}
	put(d, "rules", group(members...), func(e *directory.Entry) { e.List = l })
	x, err := New(Config{Directory: d, Pair: Pairs("pair1"), ListLimit: 1, ChunkSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{ReversePath: mail.Address{Local: "a", Domain: "ok.test"}}
	r := mail.Recipient{Address: mail.Address{Local: "rules", Domain: "example.test"}}
	rs, err := x.Rcpt(t.Context(), env, r)
	if err != nil || len(rs) != 1 || rs[0].Channel != mail.ChannelReprocess {
		t.Fatalf("%q, %v", show(rs), err)
	}
	var got []string
	for r = rs[0]; r.Channel == mail.ChannelReprocess; {
		if rs, err = comeBack(t, x, env, r); err != nil {
			t.Fatal(err)
		}
		got = append(got, show(rs)...)
		r = rs[len(rs)-1]
		l.AllowedDomains = words("closed.test")
	}
	if n := len(got) - strings.Count(strings.Join(got, " "), "reprocess"); n != 5 {
		t.Errorf("%q", got)
	}
}

// Whether a stranger is a member of a very large list is not found out while
// the client waits.
func TestMembersOnlyLarge(t *testing.T) {
	d := fixture()
	var dns []string
	for i := range 40 {
		dns = append(dns, fmt.Sprintf("uid=chain%d", i))
	}
	put(d, "club", group(), func(e *directory.Entry) {
		e.MemberDNs = dns
		rules(func(l *directory.List) {
			l.AllowedDomains, l.AllowedBroadcasters = words("ok.test"), words("ldap:///cn=club")
		})(e)
	})
	d.users["cn=club@example.test"] = d.users["club@example.test"]
	put(d, "dynamic", group("ann@example.test"), rules(func(l *directory.List) { l.AllowedBroadcasters = words("ldap:///o=isp??sub?(a=b)") }))
	put(d, "mods", group("ann@example.test"), rules(func(l *directory.List) { l.Moderators = words("ldap:///cn=club") }))
	x, err := New(Config{Directory: d, Pair: Pairs("pair1"), ListLimit: 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ from, to, now, later string }{
		{"a@far.test", "club", "reprocess club@example.test", "550 5.7.1 Your domain may not send to this list"},
		{"chain3@example.test", "club", "reprocess club@example.test", "chain0"}, // a member by name; too many for now all the same
		{"n29@out.test", "dynamic", "reprocess dynamic@example.test", "ann"},
		{"n30@out.test", "dynamic", "reprocess dynamic@example.test", "550 5.7.1 You may not send to this list"},
		{"a@far.test", "mods", "reprocess mods@example.test", ""},
	} {
		if _, got := ask(t, x, tt.from, tt.to); got[0] != tt.now {
			t.Errorf("%s from %s: %q, want %q", tt.to, tt.from, got, tt.now)
		}
		if tt.later == "" {
			continue
		}
		if got, _ := post(t, x, tt.from, "", tt.to, short); len(got) == 0 || got[0] != tt.later {
			t.Errorf("%s from %s, later: %q, want %q", tt.to, tt.from, got, tt.later)
		}
	}
}

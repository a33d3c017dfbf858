package expand

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/relay/mapping"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	trees "github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

// people is the specification's fixture, and lists and users that ask for more.
// Attributes that no public schema has are read from others here.
func people() []byte {
	base := trees.Base("example.org")
	text := string(trees.Schema2())
	user := func(uid, attrs string) {
		text += fmt.Sprintf("dn: uid=%s,ou=people,%s\nobjectClass: inetOrgPerson\nobjectClass: inetUser\nobjectClass: inetMailUser\nobjectClass: inetLocalMailRecipient\nuid: %[1]s\ncn: x\nsn: x\nmail: %[1]s@example.org\n%[3]s\n", uid, base, attrs)
	}
	list := func(name, attrs string) {
		text += fmt.Sprintf("dn: cn=%s,ou=groups,%s\nobjectClass: groupOfUniqueNames\nobjectClass: inetMailGroup\nobjectClass: inetLocalMailRecipient\ncn: %[1]s\nmail: %[1]s@example.org\n%[3]s\n", name, base, attrs)
	}
	ana, bob := "uniqueMember: uid=ana,ou=people,"+base+"\n", "uniqueMember: uid=bob,ou=people,"+base+"\n"
	user("lang", "mailHost: pair1\nmailDeliveryOption: mailbox\nmailDeliveryOption: autoreply\nmailAutoReplyMode: reply\nmailAutoReplyText: away \\24 5$bye\nmailAutoReplyText;lang-fr: absent\nmailAutoReplyTextInternal: inside\n")
	user("langs", "mailHost: pair1\nmailDeliveryOption: mailbox\nmailDeliveryOption: autoreply\nmailAutoReplyMode: reply\nmailAutoReplyText: away\nmailAutoReplyText;lang-fr: absent\n")
	user("fran", "mailHost: pair1\npreferredLanguage: fr\n")
	user("watched", "mailHost: pair1\nemployeeType: audit@far.example:journal\n")
	user("limited", "mailHost: pair1\nmailMsgMaxBlocks: 3\nmailQuota: 20M\nmailMsgQuota: -1\n")
	user("nohost", "")
	user("both", "mailHost: pair1\nmailDeliveryOption: mailbox\nmailDeliveryOption: forward\nmailForwardingAddress: x@far.example\n")
	user("lazy", "mailHost: pair1\nmailDeferProcessing: Yes\n")
	text += fmt.Sprintf("dn: uid=plain,ou=people,%s\nobjectClass: inetOrgPerson\nuid: plain\ncn: x\nsn: x\nmail: plain@example.org\n\n", base)
	list("loopa", ana+"uniqueMember: cn=loopb,ou=groups,"+base+"\n")
	list("loopb", bob+"uniqueMember: cn=loopa,ou=groups,"+base+"\nmgrpRFC822MailMember: ana@example.org\nmgrpRFC822MailMember: z@far.example\n")
	list("subtree", "uniqueMember: ou=people,"+trees.Base("example.com")+"\n")
	list("members", ana+bob+"mgrpAllowedBroadcaster: ldap:///cn=members,ou=groups,"+base+"\n")
	list("search", ana+"mgrpAllowedBroadcaster: ldap:///ou=people,"+base+"??sub?(preferredLanguage=fr)\n")
	list("badurl", ana+"mgrpAllowedBroadcaster: nonsense\n")
	list("deny", ana+"mgrpDisallowedBroadcaster: ldap:///uid=bob,ou=people,"+base+"\nmgrpDisallowedDomain: *.bad.example\n")
	list("auth", ana+"mgrpBroadcasterPolicy: SMTP_AUTH_REQUIRED\n")
	list("either", ana+"mgrpBroadcasterPolicy: OR\nmgrpAllowedDomain: ok.example\nmgrpAuthPassword: s3cret\n")
	list("tagged", ana+"businessCategory: [tagged]\ndescription: https://example.org/unsubscribe\nmgrpMsgSuffixText: -- $tagged list\nmgrpRequestTo: bob@example.org\nmailRejectText: no\n")
	list("each", ana+"mgrpRFC822MailMember: loopa@example.org\nmgrpNoDuplicateChecks: yes\n")
	user("called", "mailHost: pair1\npager: +49 1\npager: 22\n")
	user("silent", "mailHost: pair1\npager: none\n")
	list("pagers", "memberURL: ldap:///ou=people,"+base+"?pager?sub?(pager=*)\nuniqueMember: ou=people,"+trees.Base("example.com")+"\nmgrpURLResultMapping: pagers\n")
	list("mapped", bob+"mgrpDeliverTo: ldap:///ou=people,"+base+"??sub?(|(uid=ana)(uid=bob)(uid=fran))\nmgrpURLResultMapping: ADDRESSES\n")
	list("nomap", ana+"memberURL: ldap:///ou=people,"+base+"??sub?(uid=ana)\nmgrpURLResultMapping: ELSEWHERE\n")
	list("secret", "uniqueMember: uid=nobody,ou=people,"+base+"\nmemberURL: ldap:///ou=people,"+base+"?userPassword?sub?(uid=ana)\nmgrpURLResultMapping: ADDRESSES\n")
	list("errors", "uniqueMember: uid=ana,ou=people,"+base+"\nmgrpErrorsTo: ldap:///uid=bob,ou=people,"+base+"\n")
	return []byte(text)
}

func renamed(t testing.TB) directory.Schema {
	t.Helper()
	s := directory.SunSchema2()
	if err := s.Rename("subjecttag=businessCategory", "unsubscribeurl=description", "capture=employeeType"); err != nil {
		t.Fatal(err)
	}
	return s
}

// tables are the mapping tables of lists.
func tables(t testing.TB) *mapping.Tables {
	t.Helper()
	tables, err := mapping.Parse("mappings", []byte(`PAGERS
  *|none       $N
  *?pager?*|+*  "$2"@pager.example$Y
  *|*          "$1"@pager.example$Y
ADDRESSES
  *|bob@*      $N
  *|fran@*     x@far.example$Y
`))
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

// patient lets a busy machine answer.
func patient(c *ldap.Config) { c.Timeout, c.ConnectTimeout = time.Minute, time.Minute }

var servers = map[string]func(t testing.TB, ldif []byte) dirtest.Server{
	"embedded": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
	"OpenLDAP": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
}

// What users, forwarding and lists do, on real servers.
func TestPeople(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			schema := renamed(t)
			d := cache.New(dirtest.Dial(t, start(t, people()), patient, func(c *ldap.Config) { c.Schema = schema }), cache.Config{Timeout: time.Minute})
			now := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)
			x, err := New(Config{Directory: d, Pair: Pairs("pair1"), Now: func() time.Time { return now }, Mappings: tables(t)})
			if err != nil {
				t.Fatal(err)
			}
			t.Run("users", func(t *testing.T) { serverUsers(t, x, &now) })
			t.Run("lists", func(t *testing.T) { serverLists(t, x) })
			t.Run("languages", func(t *testing.T) { serverLanguages(t, x) })
		})
	}
}

func rcptAt(t *testing.T, x *Expander, from string, size int64, to string) ([]mail.Recipient, string) {
	t.Helper()
	env := &mail.Envelope{Size: size}
	if from != "" {
		env.ReversePath, _ = mail.ParseAddress(from, true)
	}
	a, err := mail.ParseAddress(to, true)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: a})
	if err != nil {
		e := mail.AsError("", err)
		return nil, fmt.Sprintf("%d %s", e.ReplyCode(), e.Status)
	}
	got := show(rs)
	slices.Sort(got)
	return rs, strings.Join(got, ", ")
}

// serverLanguages: who is told about mail in which language.
func serverLanguages(t *testing.T, x *Expander) {
	for person, want := range map[string]string{
		"fran@example.org": "fr", "Fran+work@EXAMPLE.net": "fr", "ana@example.org": "pt", "nobody@example.org": "pt",
		"bob@example.com": "", "eve@out.example": "", "": "",
	} {
		var a mail.Address
		if person != "" {
			var err error
			if a, err = mail.ParseAddress(person, true); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := x.Languages(t.Context(), a); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", person, got, err, want)
		}
	}
}

func serverUsers(t *testing.T, x *Expander, now *time.Time) {
	for _, tt := range []struct {
		from, to, want, text string
		size                 int64
		at                   string
	}{
		{from: "eve@out.example", to: "ana@example.org", want: "tcp_lmtpcs pair1 ana@example.org", text: "Away.\nBack on Monday.\n"},
		{from: "eve@out.example", to: "ana@example.org", want: "tcp_lmtpcs pair1 ana@example.org", text: "Away.\nBack on Monday.\n", at: "2026-02-01T00:00:00Z"},
		{from: "eve@out.example", to: "ana@example.org", want: "tcp_lmtpcs pair1 ana@example.org", at: "2026-02-01T00:00:01Z"},
		{from: "eve@out.example", to: "ana@example.org", want: "tcp_lmtpcs pair1 ana@example.org", at: "2025-12-31T23:59:59Z"},
		{from: "eve@out.example", to: "lang@example.org", want: "tcp_lmtpcs pair1 lang@example.org", text: "away $ 5\nbye\n"},
		{from: "fran@example.org", to: "lang@example.org", want: "tcp_lmtpcs pair1 lang@example.org", text: "inside\n"},
		{from: "fran@example.org", to: "langs@example.org", want: "tcp_lmtpcs pair1 langs@example.org", text: "absent\n"},
		{from: "bob@example.org", to: "langs@example.org", want: "tcp_lmtpcs pair1 langs@example.org", text: "away\n"},
		{to: "watched@example.org", want: "tcp_lmtpcs pair1 watched@example.org, tcp_local audit@far.example"},
		{to: "limited@example.org", size: 3072, want: "tcp_lmtpcs pair1 limited@example.org"},
		{to: "limited@example.org", size: 3073, want: "552 5.2.3"},
		{to: "bob@example.org", size: 2048*1024 + 1, want: "552 5.2.3"}, // the domain's limit
		{to: "nohost@example.org", want: "451 4.3.5"},
		{to: "plain@example.org", want: "550 5.1.1"}, // without the classes of a user
		{to: `"*)(mail=*"@example.org`, want: "550 5.1.1"},
		{to: "ana@host.example.org", want: "tcp_local ana@host.example.org"}, // not ours, without uplevel
		{to: "unknown@example.com", want: "tcp_local unknown@example.com"},   // by the smart host
		{to: "both@example.org", want: "tcp_lmtpcs pair1 both@example.org, tcp_local x@far.example"},
		{to: "lazy@example.org", want: "reprocess lazy@example.org"},
		{to: "anybody@all.example", want: "tcp_lmtpcs pair1 rest@all.example"},
		{to: "anybody@caught.example", want: "tcp_lmtpcs pair1 ana@example.org"},
		{to: "x@elsewhere.example", want: "tcp_local x@elsewhere.example"},
		{to: "ana@asleep.example", want: "450 4.2.1"},
	} {
		*now = time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)
		if tt.at != "" {
			*now, _ = time.Parse(time.RFC3339, tt.at)
		}
		rs, got := rcptAt(t, x, tt.from, tt.size, tt.to)
		text := ""
		if len(rs) == 1 && rs[0].Autoreply != nil {
			text = rs[0].Autoreply.Text
		}
		if got != tt.want || text != tt.text {
			t.Errorf("%s from %s at %s: %q, text %q, want %q, %q", tt.to, tt.from, *now, got, text, tt.want, tt.text)
		}
	}
	if rs, _ := rcptAt(t, x, "", 0, "limited@example.org"); len(rs) != 1 || rs[0].Quota == nil || rs[0].Quota.Bytes != 20<<20 || rs[0].Quota.Messages != -1 || rs[0].MaxSize != 3072 {
		t.Errorf("limits: %+v", rs)
	}
}

func serverLists(t *testing.T, x *Expander) {
	const ana, bob = "tcp_lmtpcs pair1 ana@example.org", "tcp_lmtpcs pair1 bob@example.org"
	for _, tt := range []struct{ from, to, want string }{
		{"", "loopa@example.org", ana + ", " + bob + ", tcp_local z@far.example"},
		// Those of other classes are addresses that nobody has: the smart host may know.
		{"", "subtree@example.org", "tcp_lmtpcs pair1 bob@example.com, tcp_local nms@example.com, tcp_local plain@example.com, tcp_local sims@example.com"},
		{"bob@example.org", "members@example.org", ana + ", " + bob},
		{"once@example.org", "members@example.org", ana + ", " + bob}, // another address of bob's
		{"eve@example.org", "members@example.org", "550 5.7.1"},
		{"fran@example.org", "search@example.org", ana},
		{"bob@example.org", "search@example.org", "550 5.7.1"},
		{"bob@example.org", "badurl@example.org", "550 5.7.1"},
		{"bob@example.org", "deny@example.org", "550 5.7.1"},
		{"x@y.bad.example", "deny@example.org", "550 5.7.1"},
		{"eve@example.org", "deny@example.org", ana},
		{"eve@example.org", "auth@example.org", "550 5.7.1"},
		{"x@ok.example", "either@example.org", "reprocess either@example.org"},
		{"x@bad.example", "staff@example.org", "550 5.7.1"},
		{"", "pagers@example.org", "tcp_lmtpcs pair1 bob@example.com, tcp_local \"49 1\"@pager.example, " +
			"tcp_local 22@pager.example, tcp_local nms@example.com, tcp_local plain@example.com, tcp_local sims@example.com"},
		{"", "mapped@example.org", ana + ", " + bob + ", tcp_local x@far.example"}, // bob by his name
		{"", "nomap@example.org", "451 4.3.5"},
		{"", "secret@example.org", "550 5.2.4"},
		{"", "tagged-request@example.org", bob},
		{"", "owner-staff@example.org", "550 5.1.1"}, // postmaster is nobody's here: the door answers for it
	} {
		if _, got := rcptAt(t, x, tt.from, 0, tt.to); got != tt.want {
			t.Errorf("%s from %s: %q, want %q", tt.to, tt.from, got, tt.want)
		}
	}
	send := func(from, to, msg string) ([]string, string, mail.Address) {
		env := &mail.Envelope{Size: int64(len(msg))}
		env.ReversePath, _ = mail.ParseAddress(from, true)
		a, _ := mail.ParseAddress(to, true)
		rs, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: a})
		for n := 0; err == nil && len(rs) == 1 && rs[0].Channel == mail.ChannelReprocess && n < 10; n++ {
			var next *Next
			if next, err = x.Again(t.Context(), env, rs[0], []byte(msg), nil); err != nil {
				break
			}
			if next.Change != nil {
				b, _ := next.Change([]byte(msg))
				msg = string(b)
			}
			if next.ReversePath != nil {
				env.ReversePath = *next.ReversePath
			}
			rs = next.Recipients
		}
		if err != nil {
			return []string{err.Error()}, msg, env.ReversePath
		}
		got := show(rs)
		slices.Sort(got)
		return got, msg, env.ReversePath
	}
	const text = "From: x\r\nTo: staff@example.org\r\nSubject: hi\r\nReply-To: x\r\n\r\nhello\r\n"
	// From somebody who may post and is no moderator: to the moderators.
	got, msg, path := send("bob@example.org", "staff@example.org", text)
	if !slices.Equal(got, []string{ana}) || !strings.HasSuffix(msg, text) || path.Local != "bob" {
		t.Errorf("not moderated: %q from %s\n%s", got, path, msg)
	}
	// From the moderator: to all, by the owner, with the list's Reply-To.
	got, msg, path = send("ana@example.org", "staff@example.org", text)
	if len(got) < 6 || !slices.Contains(got, ana) || path.Local != "postmaster" || !strings.Contains(msg, "\r\nReply-To: staff@example.org\r\n") || strings.Contains(msg, "Reply-To: x") {
		t.Errorf("moderated: %q from %s\n%s", got, path, msg)
	}
	got, msg, _ = send("eve@far.example", "tagged@example.org", text)
	if !slices.Equal(got, []string{ana}) || !strings.Contains(msg, "Subject: [tagged] hi") || !strings.HasSuffix(msg, "hello\r\n-- \r\ntagged list\r\n") ||
		!strings.Contains(msg, "List-Unsubscribe: <https://example.org/unsubscribe>,\r\n <mailto:bob@example.org?subject=unsubscribe>") || !strings.Contains(msg, "One-Click") {
		t.Errorf("tagged: %q\n%s", got, msg)
	}
	if _, _, path = send("eve@far.example", "errors@example.org", text); path.String() != "bob@example.org" {
		t.Errorf("errors to %s", path)
	}
	if got, _, _ = send("x@far.example", "either@example.org", "Approved: s3cret\r\n"+text); !slices.Equal(got, []string{ana}) {
		t.Errorf("either, by password: %q", got)
	}
	if got, _, _ = send("x@far.example", "either@example.org", text); !strings.Contains(got[0], "5.7.1") {
		t.Errorf("either, by neither: %q", got)
	}
	if got, _, _ = send("x@far.example", "each@example.org", text); !slices.Contains(got, ana) {
		t.Errorf("each: %q", got)
	}
}

// A list of 5,000 by a search waits for the channel reprocess and comes in
// pieces, each member once; a server that cuts its answer short makes it wait.
func TestManyByURL(t *testing.T) {
	base := trees.Base(dirtest.Domain)
	tree := fmt.Appendf(trees.Tree(dirtest.Domain, 5000, 1), `dn: cn=everybody,ou=groups,%[1]s
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
cn: everybody
mail: everybody@example.org
uniqueMember: uid=u0001,ou=people,%[1]s
mgrpDeliverTo: ldap:///ou=people,%[1]s??sub?(objectClass=inetMailUser)

`, base)
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := cache.New(dirtest.Dial(t, start(t, tree), patient), cache.Config{Timeout: time.Minute})
			x, err := New(Config{Directory: d, Pair: Pairs("pair1"), ChunkSize: 2000})
			if err != nil {
				t.Fatal(err)
			}
			r := mail.Recipient{Address: mail.Address{Local: "everybody", Domain: dirtest.Domain}}
			rs, err := x.Rcpt(t.Context(), &mail.Envelope{}, r)
			if err != nil || len(rs) != 1 || rs[0].Channel != mail.ChannelReprocess {
				t.Fatalf("%q, %v", show(rs), err)
			}
			got := map[string]int{}
			pieces := 0
			for r = rs[0]; ; pieces++ {
				rs, err := comeBack(t, x, &mail.Envelope{}, r)
				if err != nil {
					t.Fatal(err)
				}
				last := rs[len(rs)-1]
				for _, f := range rs {
					if f.Channel == mail.ChannelLMTP {
						got[f.Mailbox]++
					}
				}
				if r = last; last.Channel != mail.ChannelReprocess {
					break
				}
			}
			if len(got) != 5000 || pieces != 2 { // the user forward leads to u0001
				t.Errorf("%d members in %d pieces", len(got), pieces+1)
			}
			for m, n := range got {
				if n != 1 {
					t.Errorf("%s: %d copies", m, n)
				}
			}
		})
	}
	t.Run("cut short", func(t *testing.T) {
		s := dirtest.OpenLDAP(t, tree, "sizelimit 300")
		var out logBook
		d := dirtest.Dial(t, s, patient, func(c *ldap.Config) {
			c.BindDN, c.Password, c.Log = "", "", slog.New(slog.NewTextHandler(&out, nil))
		})
		incomplete := func() float64 { return testutil.ToFloat64(metrics.DirFaults.With("incomplete")) }
		before := incomplete()
		x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
		if err != nil {
			t.Fatal(err)
		}
		r := mail.Recipient{Address: mail.Address{Local: "everybody", Domain: dirtest.Domain}}
		rs, err := x.Rcpt(t.Context(), nil, r)
		if e := mail.AsError("", err); err == nil || e.Status != mail.StatusDirectoryFailure || len(rs) > 0 {
			t.Errorf("at RCPT: %d results, %v", len(rs), err)
		}
		if rs, err = comeBack(t, x, &mail.Envelope{}, r); err == nil || mail.Permanent(err) || len(rs) > 0 {
			t.Errorf("later: %d results, %v", len(rs), err)
		}
		if n := incomplete() - before; n != 2 || !strings.Contains(out.String(), "directory question failed") || !strings.Contains(out.String(), "fault=incomplete") {
			t.Errorf("%v faults were counted, want 2: %s", n, out.String())
		}
	})
}

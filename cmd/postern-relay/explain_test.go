package main

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// explainer is as much of a relay as explains.
func explainer(t *testing.T, tree []byte, configure ...func(*ldap.Config)) *relay {
	t.Helper()
	servers := dirtest.Dial(t, dirtest.Embedded(t, tree), configure...)
	in := &inside{c: new(config.Relay), dir: &lookups{servers: servers, cache: cache.New(servers, cache.Config{})}}
	in.c.Node, in.c.Directory.CacheTTL = "relay1", 10*time.Minute
	var err error
	in.expander, err = expand.New(expand.Config{Directory: in.dir.cache, Pair: expand.Pairs("pair1", "pair2", "pair3"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := new(relay)
	r.in.Store(in)
	return r
}

func caches(out *admin.ExplainResult) (list []string) {
	for _, s := range out.Steps {
		if s.Query != nil {
			list = append(list, s.Query.Question+" "+s.Query.Cache)
		}
	}
	return list
}

func TestExplain(t *testing.T) {
	r := explainer(t, append(dirtest.Tree(), `dn: uid=away,ou=people,o=example.org,o=isp
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: away
cn: Away
sn: Away
mail: away@example.org
mailHost: pair2
mailQuota: 50M
mailMsgMaxBlocks: 10
mailDeliveryOption: mailbox
mailDeliveryOption: autoreply
mailAutoReplyMode: reply
mailAutoReplyText: Away
vacationStartDate: 20260101000000Z
vacationEndDate: 20260201000000Z

dn: cn=small,ou=groups,o=example.org,o=isp
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
cn: small
mail: small@example.org
uniqueMember: uid=away,ou=people,o=example.org,o=isp
mgrpMsgMaxSize: 5000

dn: cn=tagged,ou=groups,o=example.org,o=isp
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
cn: tagged
mail: tagged@example.org
uniqueMember: uid=away,ou=people,o=example.org,o=isp
posternSubjectTag: [tagged]

dn: o=bare.example,o=isp
objectClass: organization
objectClass: sunManagedOrganization
objectClass: mailDomain
o: bare.example
sunPreferredDomain: bare.example

`...))
	ask := func(in admin.ExplainRequest) *admin.ExplainResult {
		t.Helper()
		out, err := r.explain(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return &out
	}
	first := ask(admin.ExplainRequest{Address: "away+work@example.org", From: "bob@example.net", At: time.Date(2026, 1, 9, 0, 0, 0, 0, time.UTC)})
	if len(first.Recipients) != 1 || first.Reply.Code != 250 {
		t.Fatalf("%+v", first)
	}
	got := first.Recipients[0]
	if got.Channel != "tcp_lmtpcs" || got.Pair != "pair2" || got.Mailbox != "away@example.org" || got.Folder != "work" ||
		got.Quota != 50<<20 || got.MaxSize != 10<<10 || !got.Autoreply || len(got.Via) != 0 {
		t.Errorf("recipient %+v", got)
	}
	if c := strings.Join(caches(first), ", "); c != "domain miss, address miss" || first.Queries < 2 {
		t.Errorf("first: %s, %d queries", c, first.Queries)
	}
	second := ask(admin.ExplainRequest{Address: "away+work@example.org", From: "bob@example.net", At: time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC)})
	if c := strings.Join(caches(second), ", "); c != "domain hit, address hit" || second.Queries != 0 {
		t.Errorf("second: %s, %d queries", c, second.Queries)
	}
	if second.Recipients[0].Autoreply {
		t.Error("an answer is sent outside of its dates")
	}
	third := ask(admin.ExplainRequest{Address: "away@example.org", NoCache: true})
	if c := strings.Join(caches(third), ", "); c != "domain off, address off" || third.Queries < 2 {
		t.Errorf("without cache: %s, %d queries", c, third.Queries)
	}
	if hits := r.now().dir.cache.Stats().Hits; hits != 2 {
		t.Errorf("%d hits, want 2: the third was not to be answered from memory", hits)
	}
	big := ask(admin.ExplainRequest{Address: "away@example.org", Size: 1 << 20})
	if big.Reply.Code != 552 || len(big.Recipients) != 0 {
		t.Errorf("too big: %+v", big.Reply)
	}
	for address, code := range map[string]int{"nobody@example.org": 550, "shared@example.org": 550, "bob@example.org": 450, "x@far.example": 250} {
		out := ask(admin.ExplainRequest{Address: address})
		if out.Reply.Code != code {
			t.Errorf("%s: %+v, want %d", address, out.Reply, code)
		}
		for _, s := range out.Steps {
			if s.Code != 0 && s.Code != code {
				t.Errorf("%s is answered with %d, and a step says %d", address, code, s.Code)
			}
		}
	}
	team := ask(admin.ExplainRequest{Address: "team@example.org"})
	if len(team.Recipients) != 5 || team.Recipients[0].Via[0] != "team@example.org" || team.Recipients[0].List == "" {
		t.Errorf("list: %+v", team.Recipients)
	}
	small := ask(admin.ExplainRequest{Address: "small@example.org"})
	if small.Recipients[0].Channel != "reprocess" || slices.ContainsFunc(small.Steps, func(s admin.ExplainStep) bool { return s.Attribute == "mgrpAuthPassword" }) {
		t.Errorf("a list without a password: %+v", small)
	}
	tagged := ask(admin.ExplainRequest{Address: "tagged@example.org"})
	if tagged.Recipients[0].Channel != "reprocess" || slices.ContainsFunc(tagged.Steps, func(s admin.ExplainStep) bool { return s.Attribute == "mgrpErrorsTo" }) {
		t.Errorf("a list without an address for errors: %+v", tagged)
	}
	r.now().c.Directory.DefaultDomain = "example.org"
	if out := ask(admin.ExplainRequest{Address: "postmaster"}); out.Reply.Code != 250 || len(out.Recipients) != 1 || out.Recipients[0].Mailbox != "u0001@example.org" {
		t.Errorf("postmaster: %+v", out)
	}
	if out := ask(admin.ExplainRequest{Address: "postmaster@bare.example"}); out.Reply.Code != 250 || len(out.Recipients) != 1 || out.Recipients[0].Channel != "hold" ||
		!strings.Contains(out.Steps[len(out.Steps)-1].Text, "RFC 5321 4.5.1") {
		t.Errorf("a postmaster that nobody is: %+v", out)
	}
	if out := ask(admin.ExplainRequest{Address: "away@example.org", Auth: "u0001@example.org"}); out.Reply.Code != 250 {
		t.Errorf("with a login: %+v", out.Reply)
	}
	for _, bad := range []admin.ExplainRequest{{}, {Address: "a b"}, {Address: "away@example.org", Auth: "nobody@example.org"}, {Address: "a@b.example", From: "@@"}} {
		if _, err := r.explain(t.Context(), bad); !errors.Is(err, admin.ErrBadRequest) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestExplainSubmission answers for what a user may submit as live mail does.
func TestExplainSubmission(t *testing.T) {
	r := explainer(t, append(dirtest.Tree(), `dn: uid=sender,ou=people,o=example.org,o=isp
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: sender
cn: Sender
sn: Sender
mail: sender@example.org
mailHost: pair2
mailMsgMaxBlocks: 10
mailAntiUBEService: spam
mailAntiUBEService: virus

`...), func(c *ldap.Config) {
		c.Schema = directory.SunSchema2()
		c.Schema.SenderMaxBlocks = "mailMsgMaxBlocks"
	})
	for size, code := range map[int64]int{0: 250, 10 << 10: 250, 10<<10 + 1: 552} {
		out, err := r.explain(t.Context(), admin.ExplainRequest{Address: "u0001@example.org", Auth: "sender@example.org", Size: size})
		if err != nil || out.Reply.Code != code {
			t.Errorf("%d octets: %+v, %v; want %d", size, out.Reply, err, code)
		}
	}
	in := r.now()
	in.c.Filters = []config.Filter{{Name: "rspamd", Address: "unix:/run/spam.sock", Services: []string{"mx"}, OptIn: []string{"spam"}}}
	var err error
	if in.filters, err = makeFilters(in.c, nil, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	out, err := r.explain(t.Context(), admin.ExplainRequest{Address: "sender@example.org"})
	if err != nil || len(out.Recipients) != 1 || !slices.Equal(out.Recipients[0].Filters, []string{"rspamd"}) {
		t.Fatalf("%+v, %v", out, err)
	}
	var unknown []string
	for _, s := range out.Steps {
		if strings.HasPrefix(s.Text, "no filter of this relay") {
			unknown = append(unknown, s.Text)
		}
	}
	if len(unknown) != 1 || !strings.Contains(unknown[0], `"virus"`) {
		t.Errorf("told of filters that are not there: %q", unknown)
	}
}

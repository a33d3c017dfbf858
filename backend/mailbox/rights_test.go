package mailbox_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
)

// withRights is a pair that can keep lists of rights. owners says whose mailboxes
// without one are.
func withRights(t testing.TB, owners *bool) (*mailbox.Service, *mailboxtest.Log) {
	return mailboxtest.NewWithLog(t, func(c *mailbox.Config) {
		c.Level = func() uint32 { return 2 }
		c.Owners = func() bool { return *owners }
	})
}

// post delivers to a folder of ann's and says where that went.
func post(t *testing.T, s *mailbox.Service, folder string, poster ...string) string {
	t.Helper()
	r := one(t, s, &mailbox.Delivery{Message: []byte(text), Recipients: []mailbox.DeliveryRecipient{{
		Account: "ann@example.test", Folder: folder, Poster: poster,
	}}})
	if r.Refused && r.Mailbox != "INBOX" {
		t.Fatalf("%+v", r)
	}
	if r.Refused {
		return "refused"
	}
	return r.Mailbox
}

func lines(t *testing.T, a *mailbox.Account, name string) (out []string) {
	t.Helper()
	grants, err := a.Grants(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := a.AllGrants(context.Background()); err != nil || name != "inbox" && !slices.Equal(all[name], grants) {
		t.Errorf("of all %q, %v; want %q", all[name], err, grants)
	}
	for _, g := range grants {
		out = append(out, g.Identifier+" "+g.Rights)
	}
	return out
}

func create(t *testing.T, a *mailbox.Account, name string) {
	t.Helper()
	if _, err := a.Create(context.Background(), name, nil); err != nil {
		t.Fatal(err)
	}
}

func grant(t *testing.T, a *mailbox.Account, name, who string, op mailbox.StoreOp, rights string) {
	t.Helper()
	who, err := a.Identifier(who)
	if err == nil {
		err = a.SetGrant(context.Background(), name, who, op, rights)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestWithoutList: whose a folder without a list is, is what the site says; an
// entry keeps what held when it was made.
func TestWithoutList(t *testing.T) {
	owners := false
	s, _ := withRights(t, &owners)
	a := account(t, s, "ann@example.test")
	create(t, a, "work")
	all := []string{"anyone p"}
	for _, owners = range []bool{false, true} {
		want, list := "work", all
		if owners {
			want, list = "refused", nil
		}
		if got := post(t, s, "work"); got != want {
			t.Errorf("owners %v, a stranger: %s, want %s", owners, got, want)
		}
		if got := lines(t, a, "work"); !slices.Equal(got, list) {
			t.Errorf("owners %v: %q", owners, got)
		}
		if got := lines(t, a, "inbox"); !slices.Equal(got, all) {
			t.Errorf("owners %v: INBOX has %q", owners, got)
		}
		if got := post(t, s, "work", "Ann@Example.test"); got != "work" {
			t.Errorf("owners %v, the owner: %s", owners, got)
		}
	}
	grant(t, a, "work", "eva@example.net", mailbox.StoreAdd, "p")
	if got := lines(t, a, "work"); !slices.Equal(got, []string{"eva@example.net p"}) {
		t.Errorf("began as its owner's: %q", got)
	}
	create(t, a, "open")
	owners = false
	grant(t, a, "open", "eva@example.net", mailbox.StoreAdd, "p")
	owners = true
	if got := lines(t, a, "open"); !slices.Equal(got, []string{"anyone p", "eva@example.net p"}) {
		t.Errorf("began as everybody's: %q", got)
	}
}

// TestWhoPosts: identities and identifiers meet however they are spelt.
func TestWhoPosts(t *testing.T) {
	owners := true
	s, _ := withRights(t, &owners)
	a := account(t, s, "ann@example.test")
	create(t, a, "Wörk")
	grant(t, a, "Wörk", "Bob", mailbox.StoreAdd, "p")
	grant(t, a, "Wörk", "group=Team@Example.net", mailbox.StoreAdd, "p")
	grant(t, a, "Wörk", "mu\u0308ller@example.net", mailbox.StoreAdd, "p") // u and diaeresis
	grant(t, a, "Wörk", "ANYONE@B\u00fccher.example", mailbox.StoreAdd, "p")
	if got := lines(t, a, "Wörk"); !slices.Equal(got, []string{"anyone@xn--bcher-kva.example p", "bob@example.test p", "m\u00fcller@example.net p", "team@example.net p"}) {
		t.Errorf("%q", got)
	}
	for want, posters := range map[string][][]string{
		"Wörk":    {{"BOB@example.test"}, {"x@y", "team@EXAMPLE.net"}, {"m\u00fcller@example.net"}, {"eva@x", "anyone@xn--bcher-kva.example"}, {"anyone@b\u00fccher.example"}},
		"refused": {nil, {"bob"}, {"eva@example.test"}, {"anyone"}, {"not an address"}},
	} {
		for _, poster := range posters {
			if got := post(t, s, "Wörk", poster...); got != want {
				t.Errorf("%q: %s, want %s", poster, got, want)
			}
		}
	}
	many := make([]string, command.MaxPosters, command.MaxPosters+1)
	for i := range many {
		many[i] = "x@y"
	}
	if got := post(t, s, "Wörk", append(many, "bob@example.test")...); got != "refused" {
		t.Errorf("an identity beyond the bound: %s", got)
	}
	if got := post(t, s, "Wörk", append([]string{"bob@example.test"}, many...)...); got != "Wörk" {
		t.Errorf("the first of too many identities: %s", got)
	}
	grant(t, a, "Wörk", "-eva", mailbox.StoreAdd, "p")
	if got := post(t, s, "Wörk", append([]string{"bob@example.test"}, many...)...); got != "refused" {
		t.Errorf("too many identities, and a negative line: %s", got)
	}
}

// TestNegativeRights: what a line with "-" names has no right by another line, and
// anyone@ a domain is who has an account there (RFC 4314 2).
func TestNegativeRights(t *testing.T) {
	owners := false
	s, _ := withRights(t, &owners)
	a := account(t, s, "ann@example.test")
	create(t, a, "work")
	grant(t, a, "work", "-BOB", mailbox.StoreAdd, "p")
	grant(t, a, "work", "-group=Interns@Example.net", mailbox.StoreReplace, "p")
	if got := lines(t, a, "work"); !slices.Equal(got, []string{"-bob@example.test p", "-interns@example.net p", "anyone p"}) {
		t.Errorf("%q", got)
	}
	want := func(want string, poster ...string) {
		t.Helper()
		if got := post(t, s, "work", poster...); got != want {
			t.Errorf("%q: %s, want %s", poster, got, want)
		}
	}
	want("work")
	want("work", "eva@example.test")
	want("refused", "Bob@example.test", "anyone@example.test")
	want("refused", "eva@example.test", "interns@example.net")
	want("work", "ann@example.test", "interns@example.net") // the owner has all rights
	grant(t, a, "work", mailbox.Anyone, mailbox.StoreReplace, "")
	want("refused")
	want("refused", "eva@example.test", "anyone@example.test")
	grant(t, a, "work", "anyone@Example.test", mailbox.StoreAdd, "p")
	want("refused")
	want("refused", "eva@example.net", "anyone@example.net")
	want("work", "eva@example.test", "anyone@example.test")
	want("refused", "bob@example.test", "anyone@example.test")
	grant(t, a, "work", "-bob", mailbox.StoreRemove, "p")
	want("work", "bob@example.test", "anyone@example.test")
	grant(t, a, "work", "-anyone@example.test", mailbox.StoreAdd, "p")
	want("refused", "bob@example.test", "anyone@example.test")
}

// FuzzIdentifier: whatever a client sends is refused, or is an identifier that means
// itself, and whose holder meets it.
func FuzzIdentifier(f *testing.F) {
	owners := false
	s, _ := withRights(f, &owners)
	a, err := s.Account(context.Background(), "ann@example.test")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"bob", "-bob", "group=x@y", "-group=Bob@X", "anyone", "-anyone", "anyone@\u00dc.example", "\u212a@x", "\uff0dbob", "\u0130@x", "a@b@\u2100", "-@", "--x"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		id, err := a.Identifier(name)
		if err != nil {
			if !errors.Is(err, mailbox.ErrIdentifier) || id != "" {
				t.Fatalf("%q: %q, %v", name, id, err)
			}
			return
		}
		if again, err := a.Identifier(id); err != nil || again != id {
			t.Fatalf("%q: %q, again %q, %v", name, id, again, err)
		}
		who := strings.TrimPrefix(id, mailbox.Negative)
		if strings.HasPrefix(who, mailbox.Negative) || who != mailbox.Anyone && !strings.Contains(who, "@") || strings.ContainsAny(who, " \t\r\n") {
			t.Fatalf("%q: %q", name, id)
		}
	})
}

func TestGrantRefused(t *testing.T) {
	ctx := context.Background()
	owners := false
	s, _ := withRights(t, &owners)
	a := account(t, s, "ann@example.test")
	create(t, a, "work")
	for _, name := range []string{"", "-", "--bob", "group=-bob", "-group=", "-two words", "anyone@", "bob@", "two words", "a\x00b", strings.Repeat("x", 400), "\xff@x"} {
		if id, err := a.Identifier(name); !errors.Is(err, mailbox.ErrIdentifier) {
			t.Errorf("%.20q: %q, %v", name, id, err)
		}
	}
	for name, tt := range map[string]struct {
		box, who string
		op       mailbox.StoreOp
		rights   string
		want     error
	}{
		"the owner":              {"work", "ann@example.test", mailbox.StoreRemove, "p", mailbox.ErrOwner},
		"the owner, negative":    {"work", "-ann@example.test", mailbox.StoreAdd, "p", mailbox.ErrOwner},
		"another right":          {"work", "bob@example.test", mailbox.StoreAdd, "pl", mailbox.ErrNotShared},
		"a digit":                {"work", "bob@example.test", mailbox.StoreReplace, "0", mailbox.ErrNotShared},
		"no right that is there": {"work", "bob@example.test", mailbox.StoreRemove, "lr", nil},
		"INBOX":                  {"inbox", "bob@example.test", mailbox.StoreAdd, "p", mailbox.ErrInbox},
		"INBOX, negative":        {"inbox", "-bob@example.test", mailbox.StoreAdd, "p", mailbox.ErrInbox},
		"INBOX closed":           {"INBOX", mailbox.Anyone, mailbox.StoreReplace, "", mailbox.ErrInbox},
		"INBOX as it is":         {"INBOX", mailbox.Anyone, mailbox.StoreReplace, "p", nil},
		"no mailbox":             {"none", "bob@example.test", mailbox.StoreAdd, "p", mailbox.ErrNoMailbox},
		"no name":                {"a//b", "bob@example.test", mailbox.StoreAdd, "p", mailbox.ErrNoMailbox},
	} {
		if err := a.SetGrant(ctx, tt.box, tt.who, tt.op, tt.rights); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := a.Grants(ctx, "none"); !errors.Is(err, mailbox.ErrNoMailbox) {
		t.Error(err)
	}
}

// TestRightsLevel: before the pair knows lists there are none, whatever the site
// says, and no entry is written that the release before cannot read.
func TestRightsLevel(t *testing.T) {
	s, log := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Owners = func() bool { return true } })
	a := account(t, s, "ann@example.test")
	create(t, a, "work")
	if got := post(t, s, "work", "eva@example.net"); got != "work" {
		t.Error(got)
	}
	if err := a.SetGrant(context.Background(), "work", "eva@example.net", mailbox.StoreAdd, "p"); !errors.Is(err, mailbox.ErrLevel) {
		t.Error(err)
	}
	for i := uint64(1); ; i++ {
		b, err := log.ReadEntry(i, nil)
		if err != nil {
			break
		}
		if b[0] > 1 {
			t.Errorf("entry %d has version %d", i, b[0])
		}
	}
}

// TestPosterIsWritten: who posts stands in the entries that need it, and in no
// others.
func TestPosterIsWritten(t *testing.T) {
	owners := false
	s, log := withRights(t, &owners)
	a := account(t, s, "ann@example.test")
	create(t, a, "work")
	n := uint64(2)
	for _, tt := range []struct {
		folder, poster string
		owners         bool
		version        byte
	}{
		{"", "eva@example.net", false, 3},
		{"", "eva@example.net", true, 3},
		{"work", "", false, 3},
		{"work", "eva@example.net", false, 4},
		{"work", "", true, 4},
	} {
		owners = tt.owners
		post(t, s, tt.folder, tt.poster)
		n++
		if b, err := log.ReadEntry(n, nil); err != nil || b[0] != tt.version {
			t.Errorf("%+v: version %d, %v", tt, b[0], err)
		}
	}
}

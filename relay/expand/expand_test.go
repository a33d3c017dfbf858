package expand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// tree is a directory in memory, for the one question at a time that expansion
// asks. The LDAP client and servers have a contract suite of their own.
type tree struct {
	directory.Directory
	users map[string][]*directory.Entry // by address
	away  error
	asked int
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
	return nil, directory.ErrNotFound
}

func (d *tree) Entry(_ context.Context, dn string) (*directory.Entry, error) {
	if dn == "cn=down" {
		return nil, errors.New("time-out")
	}
	if e := d.users[strings.TrimPrefix(dn, "uid=")+"@example.test"]; e != nil {
		return e[0], nil
	}
	return nil, directory.ErrNotFound
}

func (d *tree) Search(_ context.Context, url string, limit int) ([]*directory.Entry, error) {
	if strings.Contains(url, "evil") {
		return nil, directory.ErrURL
	}
	var out []*directory.Entry
	for i := range 30 {
		if len(out) == limit {
			return nil, directory.ErrTooMany
		}
		out = append(out, &directory.Entry{Mail: fmt.Sprintf("n%d@out.test", i)})
	}
	return out, nil
}

func user(uid string, options ...string) *directory.Entry {
	return &directory.Entry{Kind: directory.User, DN: "uid=" + uid, UID: uid, Mailbox: uid + "@example.test", Mail: uid + "@example.test", MailHost: "pair1.int", DeliveryOptions: options}
}

func forward(uid string, to ...string) *directory.Entry {
	e := user(uid, "forward")
	e.Forwarding = to
	return e
}

func list(members ...string) *directory.Entry {
	return &directory.Entry{Kind: directory.Group, DN: "cn=list", Mail: "list@example.test", MemberAddresses: members}
}

func with(e *directory.Entry, f func(*directory.Entry)) *directory.Entry { f(e); return e }

func fixture() *tree {
	d := &tree{users: map[string][]*directory.Entry{}}
	put := func(local string, e ...*directory.Entry) { d.users[local+"@example.test"] = e }
	put("ann", user("ann", "mailbox"))
	put("bob", user("bob"))
	put("alias", user("ann", "mailbox"))
	put("both", with(forward("both", "eve@out.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"mailbox", "forward", "telepathy"} }))
	put("fwd", forward("fwd", "ann@example.test", "x@out.test"))
	put("ping", forward("ping", "pong@example.test"))
	put("pong", forward("pong", "ping@example.test"))
	put("chain0", user("chain0", "mailbox"))
	for i := range 12 {
		put(fmt.Sprintf("chain%d", i+1), forward("c", fmt.Sprintf("chain%d@example.test", i)))
	}
	put("two", user("one"), user("two"))
	put("late", user("late"), with(user("gone"), func(e *directory.Entry) { e.MailStatus = directory.Deleted }))
	put("nouid", with(user(""), func(e *directory.Entry) {}))
	put("nohost", with(user("nohost"), func(e *directory.Entry) { e.MailHost = "elsewhere" }))
	for s, name := range map[directory.Status]string{directory.Inactive: "inactive", directory.Disabled: "disabled", directory.Deleted: "deleted", directory.Hold: "hold", directory.OverQuota: "overquota"} {
		put(name, with(user(name), func(e *directory.Entry) { e.MailStatus = s }))
	}
	put("list", list("ann@example.test", "bob@example.test", "not an address", "nobody@example.test", "z@out.test"))
	put("nested", list("list@example.test", "nested@example.test", "ann@example.test"))
	put("dns", with(list(), func(e *directory.Entry) { e.MemberDNs = []string{"uid=ann", "uid=missing"} }))
	put("half", with(list("ann@example.test"), func(e *directory.Entry) { e.MemberDNs = []string{"cn=down"} }))
	put("dynamic", with(list(), func(e *directory.Entry) { e.MemberURLs = []string{"ldap:///o=isp??sub"} }))
	put("evil", with(list(), func(e *directory.Entry) { e.MemberURLs = []string{"ldap://evil/"} }))
	put("ruled", with(list("ann@example.test"), func(e *directory.Entry) {
		e.Raw = directory.Attributes{{Name: "mgrpmoderator", Values: []string{"mailto:ann@example.test"}}}
	}))
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("m%d@out.test", i))
	}
	put("many", list(many...))
	return d
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
		"ann@example.test":            {ann},
		"ANN@Example.Test":            {ann},
		"alias@example.test":          {ann},
		"bob@example.test":            {bob},
		"ann+Work@example.test":       {ann + "/Work"},
		"someone@out.test":            {"tcp_local someone@out.test"},
		"both@example.test":           {"tcp_lmtpcs pair1 both@example.test", "tcp_local eve@out.test"},
		"fwd@example.test":            {ann, "tcp_local x@out.test"},
		"list@example.test":           {ann, bob, "tcp_local z@out.test"},
		"nested@example.test":         {ann, bob, "tcp_local z@out.test", ann},
		"dns@example.test":            {ann},
		"many@example.test":           {"reprocess many@example.test"},
		"hold@example.test":           {"hold hold@example.test"},
		"late@example.test":           {"tcp_lmtpcs pair1 late@example.test"},
		"chain9@example.test":         {"tcp_lmtpcs pair1 chain0@example.test"},
		"nobody@example.test":         {"550 5.1.1"},
		"ping@example.test":           {"550 5.4.6"},
		"chain12@example.test":        {"550 5.4.6"},
		"two@example.test":            {"550 5.1.4"},
		"nouid@example.test":          {"451 4.4.3"},
		"nohost@example.test":         {"451 4.3.5"},
		"inactive@example.test":       {"450 4.2.1"},
		"disabled@example.test":       {"550 5.2.1"},
		"deleted@example.test":        {"550 5.1.6"},
		"overquota@example.test":      {"552 5.2.2"},
		"half@example.test":           {"451 4.4.3"},
		"evil@example.test":           {"451 4.3.5"},
		"ruled@example.test":          {"451 4.3.5"},
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

func TestReprocessing(t *testing.T) {
	d := fixture()
	x, err := New(Config{Directory: d, ListLimit: 10, Reprocessing: func(context.Context) bool { return true }, Pair: func(string) (string, bool) { return "pair1", true }})
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]int{"many": 60, "dynamic": 30} {
		rs, err := x.Rcpt(context.Background(), nil, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
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

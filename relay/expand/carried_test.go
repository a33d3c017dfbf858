package expand

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// expandOne is what d makes of mail for an address, and the steps on the way.
func expandOne(t *testing.T, d *tree, env *mail.Envelope, address string) ([]mail.Recipient, []Step, error) {
	t.Helper()
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	a, err := mail.ParseAddress(address, true)
	if err != nil {
		t.Fatal(err)
	}
	var steps []Step
	rs, err := x.Explain(t.Context(), env, mail.Recipient{Address: a}, func(s Step) { steps = append(steps, s) })
	return rs, steps, err
}

// told reports whether a step of the explanation names attribute and says text.
func told(steps []Step, attribute, text string) bool {
	for _, s := range steps {
		if s.Attribute == attribute && strings.Contains(s.Text, text) {
			return true
		}
	}
	return false
}

// TestPartition: the partition is of the user whose mailbox it is, not of who
// forwards to it.
func TestPartition(t *testing.T) {
	d := fixture()
	d.users["ann@example.test"][0].MessageStore = "p1"
	d.users["fwd@example.test"][0].MessageStore = "p2"
	for address, want := range map[string]string{"ann@example.test": "p1", "ann+x@example.test": "p1", "bob@example.test": "", "fwd@example.test": "p1"} {
		rs, steps, err := expandOne(t, d, nil, address)
		if err != nil || rs[0].Store != want {
			t.Errorf("%s: %q, want %q: %v", address, rs[0].Store, want, err)
		}
		if want != "" && !told(steps, "mailMessageStore", want) {
			t.Errorf("%s: not explained: %+v", address, steps)
		}
		for _, r := range rs[1:] {
			if r.Store != "" {
				t.Errorf("%s: %s has partition %q", address, r.Address, r.Store)
			}
		}
	}
}

// TestPartitionNames: a name that is none is a fault of the entry, and the
// entry is used without it.
func TestPartitionNames(t *testing.T) {
	s := directory.SunSchema2()
	for name, ok := range map[string]bool{
		"primary": true, "p-1_a.b": true, "": true, ".": false, "../x": false, "a b": false, "ü": false, "a\n": true,
		strings.Repeat("p", 64): true, strings.Repeat("p", 65): false,
	} {
		e := s.ReadEntry("uid=ann", directory.Attributes{
			{Name: "objectClass", Values: []string{"inetMailUser", "inetLocalMailRecipient"}},
			{Name: "uid", Values: []string{"ann"}},
			{Name: "mailMessageStore", Values: []string{name}},
		})
		if got := len(e.Faults) == 0; got != ok || e.UID != "ann" || (e.MessageStore != "") != (ok && name != "") {
			t.Errorf("%q: %q, faults %q", name, e.MessageStore, e.Faults)
		}
	}
}

// TestPoster: beside a folder stands who posts to it, by name, by address and by
// group, if somebody has logged in; and what decides is explained.
func TestPoster(t *testing.T) {
	d := fixture()
	eva := with(user("eva"), func(e *directory.Entry) {
		e.Mail, e.Alternate, e.Equivalent = "Eva@example.test", []string{"eva@x.test", "@catchall.test"}, []string{"eva@eq.test"}
		e.ACLGroups = []string{"group=Team@example.test", " crew@example.test "}
	})
	d.users["eva@example.test"] = []*directory.Entry{eva}
	many := make([]string, maxPoster)
	for i := range many {
		many[i] = fmt.Sprintf("list%d@example.test", i)
	}
	d.users["dan@example.test"] = []*directory.Entry{with(user("dan"), func(e *directory.Entry) {
		e.Mail, e.Alternate = "dan@sales.test", []string{"anyone@bank.test", "group=\uff21nyone@bank.test", "Anyone", "-dan@x.test", strings.Repeat("x", 320) + "@x.test"}
	})}
	d.users["max@example.test"] = []*directory.Entry{with(user("max"), func(e *directory.Entry) { e.ACLGroups = many })}
	for _, name := range []string{"anyone", "-odd"} {
		d.users[name+"@example.test"] = []*directory.Entry{with(user(name), func(e *directory.Entry) { e.Mail, e.Mailbox = "", name+"@example.test" })}
	}
	all := "eva@example.test anyone@example.test team@example.test crew@example.test eva@x.test eva@eq.test"
	for _, tt := range []struct {
		address, auth, want string
	}{
		{"ann+work@example.test", "eva@example.test", all},
		{"ann+work@example.test", "", ""},
		{"ann+inbox@example.test", "eva@example.test", ""},
		{"ann@example.test", "eva@example.test", ""},
		{"ann+work@example.test", "gone@example.test", "gone@example.test anyone@example.test"},
		{"ann+work@example.test", "dan@example.test", "dan@example.test dan@sales.test anyone@example.test anyone@sales.test anyone"},
		{"ann+work@example.test", "anyone@example.test", "anyone@example.test"},
		{"ann+work@example.test", "-odd@example.test", "-odd@example.test anyone@example.test"},
		{"ann+work@example.test", "max@example.test", "max@example.test anyone@example.test " + strings.Join(many[:maxPoster-2], " ") + " -"},
	} {
		rs, steps, err := expandOne(t, d, &mail.Envelope{AuthUser: tt.auth}, tt.address)
		if err != nil || len(rs) != 1 || strings.Join(rs[0].Poster, " ") != tt.want {
			t.Errorf("%s by %q: %+v, %v", tt.address, tt.auth, rs, err)
		}
		decides := ""
		switch {
		case tt.want != "":
			decides = "that of " + strings.ReplaceAll(tt.want, " ", ", ")
		case strings.HasSuffix(tt.address, "+work@example.test"):
			decides = "anyone has the right p"
		}
		said := false
		for _, s := range steps {
			said = said || s.Rule == "4.7" && strings.Contains(s.Text, decides)
		}
		if said != (decides != "") {
			t.Errorf("%s by %q: explained %v: %+v", tt.address, tt.auth, said, steps)
		}
	}
}

// TestReportAddress: notifications are by the wish of the domain that the
// sender wrote to, wherever the mail leads and however late that is decided.
func TestReportAddress(t *testing.T) {
	d := fixture()
	d.domains = map[string]*directory.Domain{
		"reports.test": {Name: "reports.test", DomainSettings: directory.DomainSettings{ReportAddress: "post@reports.test"}},
		"mailto.test":  {Name: "mailto.test", DomainSettings: directory.DomainSettings{ReportAddress: "mailto:post@mailto.test"}},
		"bad.test":     {Name: "bad.test", DomainSettings: directory.DomainSettings{ReportAddress: "no address"}},
	}
	own := func(local, domain string, e *directory.Entry) { d.users[local+"@"+domain] = []*directory.Entry{e} }
	own("ann", "reports.test", user("ann"))
	own("fwd", "reports.test", forward("fwd", "ann@example.test", "x@out.test"))
	own("off", "reports.test", with(group("ann@example.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"members_offline"} }))
	own("bob", "mailto.test", user("bob"))
	own("bob", "bad.test", user("bob"))
	d.users["out@example.test"] = []*directory.Entry{forward("out", "ann@reports.test")}
	for address, want := range map[string]string{
		"ann@reports.test": "post@reports.test", "fwd@reports.test": "post@reports.test", "off@reports.test": "post@reports.test",
		"bob@mailto.test": "post@mailto.test", "bob@bad.test": "", "ann@example.test": "", "out@example.test": "", "x@out.test": "",
	} {
		rs, steps, err := expandOne(t, d, nil, address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
		}
		for _, r := range rs {
			if r.Reports.String() != want {
				t.Errorf("%s: %s reports by %q, want %q", address, r.Address, r.Reports, want)
			}
		}
		if want != "" && !told(steps, "mailDomainReportAddress", want) {
			t.Errorf("%s: not explained", address)
		}
	}
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	rs, _, _ := expandOne(t, d, nil, "off@reports.test")
	later, err := comeBack(t, x, &mail.Envelope{}, rs[0])
	if err != nil || len(later) != 1 || later[0].Reports.String() != "post@reports.test" {
		t.Errorf("after the channel reprocess: %+v, %v", later, err)
	}
}

// TestWelcome: the welcome is that of the mailbox's domain.
func TestWelcome(t *testing.T) {
	d := fixture()
	d.domains = map[string]*directory.Domain{"new.test": {Name: "new.test", DomainSettings: directory.DomainSettings{Welcome: "Subject: Hi$$Hello"}}}
	d.users["ann@new.test"] = []*directory.Entry{user("ann")}
	d.users["fwd@new.test"] = []*directory.Entry{forward("fwd", "ann@example.test")}
	d.users["in@example.test"] = []*directory.Entry{forward("in", "ann@new.test")}
	for address, want := range map[string]string{"ann@new.test": "Subject: Hi$$Hello", "fwd@new.test": "", "in@example.test": "Subject: Hi$$Hello", "ann@example.test": ""} {
		rs, steps, err := expandOne(t, d, nil, address)
		if err != nil || len(rs) != 1 || rs[0].Welcome != want {
			t.Errorf("%s: %+v, want %q: %v", address, rs, want, err)
		}
		if told(steps, "mailDomainWelcomeMessage", "welcomed") != (want != "") {
			t.Errorf("%s: explained %+v", address, steps)
		}
	}
}

// TestOnHold: mail is held as long as the status or the option says so, or
// nobody knows; whoever has become somebody else, or nobody, is let go.
func TestOnHold(t *testing.T) {
	d := fixture()
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	held := func(address string, via ...string) bool {
		a, err := mail.ParseAddress(address, true)
		if err != nil {
			t.Fatal(err)
		}
		r := mail.Recipient{Address: a, Channel: mail.ChannelHold, Via: via, Key: mail.DeliveryKey{1}}
		return x.OnHold(t.Context(), &mail.Envelope{}, r)
	}
	for address, want := range map[string]bool{
		"hold@example.test": true, "onhold@example.test": true, "x@held.test": true, "ann@example.test": false,
		"nobody@example.test": false, "deleted@example.test": false, "inactive@example.test": true, "x@twice.test": true,
		"postmaster@example.test": true, "list@example.test": false, "many@example.test": false, "helds@example.test": false,
	} {
		if got := held(address); got != want {
			t.Errorf("%s: held %v, want %v", address, got, want)
		}
	}
	if !held("hold@example.test", "helds@example.test") {
		t.Error("a member of a list is not held")
	}
	d.users["hold@example.test"][0].MailStatus = directory.Active
	if held("hold@example.test", "helds@example.test") {
		t.Error("held although active")
	}
	d.away = errors.New("no server")
	if !held("ann@example.test") {
		t.Error("released while nobody knows")
	}
}

// TestGuaranteed: what a user of a guaranteed channel submits passes the status
// overquota, and nobody else's mail does.
func TestGuaranteed(t *testing.T) {
	d := fixture()
	phone := user("phone")
	phone.SubmitChannel = "tcp_gtee"
	other := user("other")
	other.SubmitChannel = "tcp_fast"
	d.users["phone"], d.users["other"], d.users["plain"] = []*directory.Entry{phone}, []*directory.Entry{other}, []*directory.Entry{user("plain")}
	x, err := New(Config{Directory: d, Pair: Pairs("pair1"), Guaranteed: []string{"TCP_Gtee"}})
	if err != nil {
		t.Fatal(err)
	}
	for who, want := range map[string]bool{"phone": true, "other": false, "plain": false, "nobody": false} {
		s, err := x.Submission(t.Context(), who)
		got := s.Guaranteed
		if got != want || err != nil {
			t.Errorf("%s: %v, %v", who, got, err)
		}
		rs, steps, err := expandOne(t, d, &mail.Envelope{AuthUser: who, Guaranteed: got}, "overquota@example.test")
		if (err == nil) != want || want && (len(rs) != 1 || rs[0].Channel != mail.ChannelLMTP || !told(steps, "mailSMTPSubmitChannel", "guaranteed")) {
			t.Errorf("%s to who is over quota: %+v, %v", who, rs, err)
		}
		if _, _, err := expandOne(t, d, &mail.Envelope{Guaranteed: got}, "disabled@example.test"); err == nil {
			t.Errorf("%s to who is disabled", who)
		}
	}
	none, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := none.Submission(t.Context(), "phone"); got != (Submission{}) || err != nil {
		t.Errorf("without such channels: %v, %v", got, err)
	}
}

// TestDomainWithoutMail: a domain whose quota is 0 gets no mail; its own sum is
// not known to a relay.
func TestDomainWithoutMail(t *testing.T) {
	s := directory.SunSchema2()
	for value, no := range map[string]bool{"0": true, "-1": false, "-2": false, "5G": false, "": false, "many": false} {
		for _, attr := range []string{"mailDomainDiskQuota", "mailDomainMsgQuota"} {
			raw := directory.Attributes{{Name: "sunPreferredDomain", Values: []string{"quota.test"}}}
			if value != "" {
				raw = append(raw, directory.Attribute{Name: attr, Values: []string{value}})
			}
			dom, ok := s.ReadDomain("o=quota.test", raw)
			if !ok || dom.NoMail != no {
				t.Fatalf("%s: %q: %v, %+v", attr, value, ok, dom)
			}
			d := fixture()
			d.domains = map[string]*directory.Domain{"quota.test": dom}
			d.users["ann@quota.test"] = []*directory.Entry{user("ann")}
			_, steps, err := expandOne(t, d, nil, "ann@quota.test")
			if (err != nil) != no || no && (mail.AsError("", err).ReplyCode() != 552 || !told(steps, "mailDomainDiskQuota", "no mail")) {
				t.Errorf("%s: %q: %v", attr, value, err)
			}
		}
	}
}

// TestSubmission: what bounds the mail that a user submits is read from the
// attributes that a site names.
func TestSubmission(t *testing.T) {
	s := directory.SunSchema2()
	if err := s.Rename("sender_recipients=maxRcpt"); err != nil {
		t.Fatal(err)
	}
	if err := s.Rename("sender_max_blocks=maxSend"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		recipients, blocks string
		want               Submission
	}{
		{"20", "100", Submission{Recipients: 20, Size: 100 * 1024}},
		{"-1", "-2", Submission{}},
		{"many", "", Submission{}},
		{"9G", "4096G", Submission{Recipients: 1 << 30, Size: 4 << 40 * 1024}},
	} {
		e := s.ReadEntry("uid=u", directory.Attributes{
			{Name: "objectClass", Values: []string{"inetMailUser", "inetLocalMailRecipient"}},
			{Name: "uid", Values: []string{"u"}},
			{Name: "maxRcpt", Values: []string{tt.recipients}},
			{Name: "maxSend", Values: []string{tt.blocks}},
		})
		d := fixture()
		d.users["u"] = []*directory.Entry{e}
		x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := x.Submission(t.Context(), "u"); got != tt.want || err != nil {
			t.Errorf("%s, %s: %+v, %v, want %+v", tt.recipients, tt.blocks, got, err, tt.want)
		}
	}
}

package transaction_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// groups is a directory of a.example: groups, and users for every other name
// but those that begin with none.
type groups struct {
	directory.Directory
	by map[string]*directory.Entry
}

func (g groups) Domain(_ context.Context, name string) (*directory.Domain, error) {
	if name == "a.example" {
		return &directory.Domain{Name: name}, nil
	}
	return nil, directory.ErrNotFound
}

func (g groups) Lookup(_ context.Context, _ *directory.Domain, a mail.Address) (*directory.Answer, error) {
	e := g.by[a.Local]
	switch {
	case strings.HasPrefix(a.Local, "none"):
		return nil, directory.ErrNotFound
	case e == nil:
		e = &directory.Entry{Kind: directory.User, DN: "uid=" + a.Local, UID: a.Local, Mail: a.String(), Mailbox: a.String(), MailHost: "pair1"}
	}
	return &directory.Answer{Entries: []*directory.Entry{e}}, nil
}

// startLists is a relay with a real expander and one list.
func startLists(t *testing.T, list func(*directory.Entry), members ...string) *relay {
	t.Helper()
	e := &directory.Entry{Kind: directory.Group, DN: "cn=all", Mail: "all@a.example", MemberAddresses: members}
	list(e)
	r := startRelay(t, "a.example", &dns.Zone{}, nil)
	var err error
	r.x, err = expand.New(expand.Config{Directory: groups{by: map[string]*directory.Entry{"all": e}}, Pair: expand.Pairs("pair1"), ChunkSize: 300})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func stored(r *relay) (names []string) {
	for _, d := range r.sink.Stored() {
		names = append(names, d.To.Local)
	}
	slices.Sort(names)
	return names
}

// A plain list of 1,000 goes through while the client waits, in one transaction
// with the pair and without the queue.
func TestPlainListThrough(t *testing.T) {
	var members []string
	for i := range 1000 {
		members = append(members, fmt.Sprintf("u%d@a.example", i))
	}
	r := startLists(t, func(*directory.Entry) {}, members...)
	if reply := send(t, r.addr, "ann@b.example", hello, to("all@a.example", "u7@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	if _, messages, repeats, _ := r.sink.Counts(); len(stored(r)) != 1000 || messages != 1 || repeats != 0 || r.q.Stats().Messages != 0 {
		t.Errorf("%d stored in %d transactions, %d repeats, queue %+v", len(stored(r)), messages, repeats, r.q.Stats())
	}
}

// What a list with an owner cannot deliver is the owner's to know of, not the
// poster's.
func TestErrorsTo(t *testing.T) {
	r := startLists(t, func(e *directory.Entry) { e.ErrorsTo = "owner@a.example" }, "u1@a.example", "full@a.example", "none@a.example", "u2@a.example")
	r.sink.Answer = func(a *smtp.RcptArgs) *smtp.Reply {
		if a.To.Local == "full" {
			return &smtp.Reply{Code: 552, Status: mail.Status{5, 2, 2}, Text: "Mailbox full"}
		}
		return nil
	}
	if reply := send(t, r.addr, "poster@a.example", hello, to("all@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "members and reports", func() bool { return len(r.sink.Stored()) >= 4 && r.q.Stats().Messages == 0 })
	if got := stored(r); !slices.Equal(got, []string{"owner", "owner", "u1", "u2"}) {
		t.Errorf("%v", got)
	}
	for _, d := range r.sink.Stored() {
		if d.To.Local != "owner" && (d.From.Local != "owner" || !strings.Contains(d.Body, "List-Id: <all.a.example>")) {
			t.Errorf("%+v", d)
		}
		if d.To.Local == "owner" && !d.From.IsNull() {
			t.Errorf("report from %s", d.From)
		}
	}
}

// A sender who wants to hear of success hears that a list with an owner of its
// own has the message, and nothing of its members; without an owner it hears of
// each of them, also when the list changes its mail.
func TestListReports(t *testing.T) {
	for name, tt := range map[string]struct {
		list func(*directory.Entry)
		want string
	}{
		"owner":   {func(e *directory.Entry) { e.ErrorsTo = "owner@a.example" }, "Action: expanded all"},
		"changed": {func(e *directory.Entry) { e.List = &directory.List{MaxAttachments: -1, SubjectTag: "[x]"} }, "Action: delivered all, Action: delivered all"},
		"plain":   {func(*directory.Entry) {}, "Action: delivered all, Action: delivered all"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startLists(t, tt.list, "u1@a.example", "u2@a.example")
			rcpt := to("all@a.example")
			rcpt[0].Notify = mail.NotifySuccess | mail.NotifyFailure
			if reply := send(t, r.addr, "poster@a.example", hello, rcpt...); reply.Code != 250 {
				t.Fatal(reply)
			}
			reported := func() string {
				var got []string
				for _, d := range r.sink.Stored() {
					if d.To.Local != "poster" {
						continue
					}
					_, report, _ := strings.Cut(d.Body, "Content-Type: message/delivery-status")
					for _, group := range strings.Split(report, "\r\n\r\n") {
						_, rest, ok := strings.Cut(group, "Final-Recipient: rfc822;")
						if local, _, at := strings.Cut(strings.TrimSpace(rest), "@"); ok && at {
							_, action, _ := strings.Cut(group, "Action: ")
							action, _, _ = strings.Cut(action, "\r\n")
							got = append(got, "Action: "+action+" "+local)
						}
					}
				}
				slices.Sort(got)
				return strings.Join(got, ", ")
			}
			await(t, "members and reports", func() bool { return len(r.sink.Stored()) >= 3 && r.q.Stats().Messages == 0 })
			if got := reported(); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// The round of a moderated list: to the moderator, who sends it again, to the
// members; and the approval by password.
func TestModeratedList(t *testing.T) {
	r := startLists(t, func(e *directory.Entry) {
		e.List = &directory.List{MaxAttachments: -1, Moderators: []string{"mailto:boss@a.example"}, Password: "s3cret"}
	}, "u1@a.example", "u2@a.example")
	post := func(from, msg string, want ...string) []lmtptest.Delivery {
		t.Helper()
		before := len(r.sink.Stored())
		if reply := send(t, r.addr, from, msg, to("all@a.example")...); reply.Code != 250 {
			t.Fatal(reply)
		}
		await(t, "delivery", func() bool { return len(r.sink.Stored()) >= before+len(want) && r.q.Stats().Messages == 0 })
		got := r.sink.Stored()[before:]
		var names []string
		for _, d := range got {
			names = append(names, d.To.Local)
			if strings.Contains(d.Body, "s3cret") {
				t.Errorf("the password is passed on to %s", d.To)
			}
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("from %s: %v, want %v", from, names, want)
		}
		return got
	}
	const text = "From: x\r\nTo: all@a.example\r\nSubject: hi\r\n\r\nhello\r\n"
	first := post("eve@b.example", text, "boss")
	if !strings.Contains(first[0].Body, "To: all@a.example\r\n") || first[0].From.Local != "eve" {
		t.Errorf("%+v", first[0])
	}
	post("boss@a.example", text, "u1", "u2")
	post("eve@b.example", "Approved: s3cret\r\n"+text, "u1", "u2")
}

// A list in pieces of 300, by the whole relay.
func TestListInPieces(t *testing.T) {
	var members []string
	for i := range 1500 {
		members = append(members, fmt.Sprintf("u%d@a.example", i))
	}
	r := startLists(t, func(*directory.Entry) {}, members...)
	if reply := send(t, r.addr, "ann@b.example", hello, to("all@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "all members", func() bool { return len(r.sink.Stored()) >= 1500 && r.q.Stats().Messages == 0 })
	if _, messages, repeats, conflicts := r.sink.Counts(); len(r.sink.Stored()) != 1500 || messages < 5 || repeats != 0 || conflicts != 0 {
		t.Errorf("%d stored in %d transactions, %d repeats, %d conflicts", len(r.sink.Stored()), messages, repeats, conflicts)
	}
}

// Somebody outside who is in two lists, both too long for the client to wait, and
// forwarded to, gets one copy, in however many messages the lists go out.
func TestOutsideInTwoLists(t *testing.T) {
	zone, routes := &dns.Zone{}, map[string]string{}
	a := startRelay(t, "a.example", zone, routes)
	b := startRelay(t, "b.example", zone, routes)
	routes["a.example"], routes["b.example"] = a.addr, b.addr
	by := map[string]*directory.Entry{}
	for _, name := range []string{"one", "two"} {
		e := &directory.Entry{Kind: directory.Group, DN: "cn=" + name, Mail: name + "@a.example"}
		for i := range 700 {
			e.MemberAddresses = append(e.MemberAddresses, fmt.Sprintf("%s%d@a.example", name, i))
		}
		for i := range 50 {
			e.MemberAddresses = append(e.MemberAddresses, fmt.Sprintf("out%d@b.example", i))
		}
		by[name] = e
	}
	by["both"] = &directory.Entry{Kind: directory.Group, DN: "cn=both", Mail: "both@a.example", MemberAddresses: []string{"one@a.example", "two@a.example", "out7@b.example"}}
	var err error
	a.x, err = expand.New(expand.Config{Directory: groups{by: by}, Pair: expand.Pairs("pair1"), ListLimit: 100, ChunkSize: 300})
	if err != nil {
		t.Fatal(err)
	}
	if reply := send(t, a.addr, "ann@c.example", hello, to("both@a.example", "two@a.example")...); reply.Code != 250 {
		t.Fatal(reply)
	}
	await(t, "all members", func() bool {
		return len(a.sink.Stored()) >= 1400 && len(b.sink.Stored()) >= 50 && a.q.Stats().Messages+b.q.Stats().Messages == 0
	})
	if len(a.sink.Stored()) != 1400 || len(b.sink.Stored()) != 50 {
		t.Errorf("%d inside and %d outside", len(a.sink.Stored()), len(b.sink.Stored()))
	}
}

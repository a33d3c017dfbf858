package expand

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// TestStatusTable is the table of directory.md 6: each status, of a user, a
// group, a domain and a domain's mail, with its answer; what is read of the
// attributes goes before it.
func TestStatusTable(t *testing.T) {
	schema := directory.SunSchema2()
	entry := func(attribute, value string, classes ...string) *directory.Entry {
		return schema.ReadEntry("uid=x", directory.Attributes{
			{Name: "objectclass", Values: append(classes, "inetLocalMailRecipient")},
			{Name: "uid", Values: []string{"x"}},
			{Name: "mail", Values: []string{"x@d.test"}},
			{Name: "mailhost", Values: []string{"pair1"}},
			{Name: "mgrprfc822mailmember", Values: []string{"y@out.test"}},
			{Name: strings.ToLower(attribute), Values: []string{value}},
		})
	}
	user := func(attribute, value string) *directory.Entry { return entry(attribute, value, "inetMailUser") }
	group := func(attribute, value string) *directory.Entry { return entry(attribute, value, "inetMailGroup") }
	for status, answers := range map[string][4]string{ // of mailUserStatus, inetMailGroupStatus, mailDomainStatus, inetDomainStatus
		"":          {"tcp_lmtpcs pair1 x@d.test", "tcp_local y@out.test", "tcp_lmtpcs pair1 x@d.test", "tcp_lmtpcs pair1 x@d.test"},
		"active":    {"tcp_lmtpcs pair1 x@d.test", "tcp_local y@out.test", "tcp_lmtpcs pair1 x@d.test", "tcp_lmtpcs pair1 x@d.test"},
		"inactive":  {"450 4.2.1", "450 4.2.1", "450 4.2.1", "450 4.2.1"},
		"disabled":  {"550 5.2.1", "550 5.2.1", "550 5.2.1", "450 4.2.1"}, // legal of mail only
		"deleted":   {"550 5.1.6", "550 5.1.6", "550 5.1.6", "550 5.1.6"},
		"removed":   {"550 5.1.6", "550 5.1.6", "550 5.1.6", "450 4.2.1"}, // legal of mail only
		"hold":      {"hold x@d.test", "hold x@d.test", "hold x@d.test", "450 4.2.1"},
		"overquota": {"552 5.2.2", "450 4.2.1", "552 5.2.2", "450 4.2.1"}, // no group has a quota
		"unused":    {"550 5.1.1", "550 5.1.1", "550 5.1.1", "450 4.2.1"},
		"drowsy":    {"450 4.2.1", "450 4.2.1", "450 4.2.1", "450 4.2.1"},
	} {
		for i, attribute := range []string{"mailUserStatus", "inetMailGroupStatus", "mailDomainStatus", "inetDomainStatus"} {
			dom, _ := schema.ReadDomain("o=d", directory.Attributes{
				{Name: "sunpreferreddomain", Values: []string{"d.test"}}, {Name: strings.ToLower(attribute), Values: []string{status}},
			})
			e := user(attribute, status)
			if i == 1 {
				e = group(attribute, status)
			}
			if e.Kind == directory.User {
				e = e.In(dom)
			}
			d := fixture()
			d.domains = map[string]*directory.Domain{"d.test": dom}
			d.users["x@d.test"] = []*directory.Entry{e}
			rs, _, err := expandOne(t, d, nil, "x@d.test")
			got := strings.Join(show(rs), ", ")
			if err != nil {
				reply := mail.AsError("", err)
				got = fmt.Sprintf("%d %s", reply.ReplyCode(), reply.Status)
			}
			if got != answers[i] {
				t.Errorf("%s %q: %s, want %s", attribute, status, got, answers[i])
			}
			if i >= 2 { // nobody in such a domain
				_, _, err := expandOne(t, d, nil, "nobody@d.test")
				reply, want := mail.AsError("", err), answers[i]
				if strings.HasPrefix(want, "tcp") {
					want = "550 5.1.1"
				}
				if err == nil && !strings.HasPrefix(want, "hold") || err != nil && fmt.Sprintf("%d %s", reply.ReplyCode(), reply.Status) != want {
					t.Errorf("nobody, %s %q: %v, want %s", attribute, status, err, want)
				}
			}
		}
	}
}

package embedded

import (
	"errors"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
)

func TestRecords(t *testing.T) {
	entry := directory.Attributes{{Name: "cn", Values: []string{"a", " padded", "ümlaut"}}, {Name: "mailAutoReplyText;lang-fr", Values: []string{strings.Repeat("long ", 40)}}}
	text := string(AppendRecord(nil, "cn=a,o=isp", entry)) + `dn: cn=b,o=isp
changetype: modify
replace: mail
mail: b@x.test
-
delete: mailQuota
-

dn: cn=c,o=isp
changetype: delete

dn: cn=d,o=isp
changetype: modrdn
newrdn: cn=e
deleteoldrdn: 1
newsuperior: o=there

dn: cn=f,o=isp
changetype: modify
increment: mailMsgQuota
mailMsgQuota: 1
-
`
	var ops []string
	for rec, err := range Records(strings.NewReader(text)) {
		if err != nil {
			var le *LDIFError
			if !errors.As(err, &le) || rec != nil {
				t.Errorf("%v, %v", rec, err)
			}
			ops = append(ops, "error")
			continue
		}
		ops = append(ops, rec.Op)
		switch rec.Op {
		case "add":
			for _, a := range entry {
				if got := rec.Attributes.Get(a.Name); len(got) != len(a.Values) || got[len(got)-1] != a.Values[len(a.Values)-1] {
					t.Errorf("%s: %q", a.Name, got)
				}
			}
		case "modify":
			if len(rec.Changes) != 2 || rec.Changes[0].Op != "replace" || rec.Changes[1].Attribute != "mailQuota" || rec.Changes[1].Values != nil {
				t.Errorf("%+v", rec.Changes)
			}
		case "rename":
			if rec.NewRDN != "cn=e" || !rec.DeleteOld || rec.NewSuperior != "o=there" {
				t.Errorf("%+v", rec)
			}
		}
	}
	if got := strings.Join(ops, " "); got != "add modify delete rename error" {
		t.Error(got)
	}
}

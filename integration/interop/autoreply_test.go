package interop

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

// awayTree is the usual tree with people who are away: u0002 answers, u0003
// echoes, u0004 has not left yet, and only is not there at all.
func awayTree(domain string) string {
	tree := string(fixture.Tree(domain, 4, 1))
	change := func(uid, lines string) {
		head := fmt.Sprintf("mail: %s@%s\n", uid, domain)
		tree = strings.Replace(tree, head, head+lines, 1)
	}
	change("u0002", `mailDeliveryOption: autoreply
mailAutoReplyMode: reply
mailAutoReplySubject:: R3LDvMOfZQ==
mailAutoReplyText: Away from 9 to 5.$Cost \24 5.
mailAutoReplyTextInternal: Colleagues ask u0004.
mailAutoReplyTimeOut: 24
`)
	change("u0003", `mailDeliveryOption: autoreply
mailAutoReplyMode: echo
mailAutoReplyText: Your message came.
`)
	change("u0004", `mailDeliveryOption: autoreply
mailAutoReplyMode: reply
mailAutoReplyText: Not yet.
vacationStartDate: 20990101000000Z
`)
	return tree + fmt.Sprintf(`dn: uid=only,ou=people,%s
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: only
cn: Only
sn: Only
mail: only@%s
mailHost: pair1
mailDeliveryOption: autoreply
mailAutoReplyMode: reply
mailAutoReplyText: Nobody reads this.
userPassword: %s

`, fixture.Base(domain), domain, fixture.Password)
}

// TestAutoreply sends to people who are away by both relays of a cluster, and
// over a failover of their pair.
func TestAutoreply(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	const domain = "away.test"
	file := filepath.Join(t.TempDir(), "tree.ldif")
	if err := os.WriteFile(file, []byte(awayTree(domain)), 0o600); err != nil {
		t.Fatal(err)
	}
	c := cluster.Start(t, "--relays", "2", "--ldif", file)
	info := c.Info()
	var ann, bob cluster.User
	for _, u := range info.Users {
		switch {
		case strings.HasPrefix(u.Address, "u0001@"):
			ann = u
		case strings.HasPrefix(u.Address, "u0002@"):
			bob = u
		}
	}
	n := 0
	send := func(to, fields string) {
		t.Helper()
		n++
		relay := info.Relays[n%2]
		submit(t, relay.SMTP, ann.Address, fmt.Appendf(nil, "From: <%s>\r\n%sSubject: question %d\r\nMessage-ID: <q%d@%s>\r\n\r\nWhere are you?\r\n", ann.Address, fields, n, n, domain), to+"@"+domain)
	}
	toThem := func(to string) string { return "To: <" + to + "@" + domain + ">\r\n" }
	// answers are those that have come, once the echo of one more message is there.
	echoes := 0
	answers := func(text string) [][]byte {
		t.Helper()
		send("u0003", toThem("u0003"))
		echoes++
		await(t, c, ann, "Disposition: automatic-action", echoes)
		var with [][]byte
		for _, m := range inbox(t, c, ann) {
			if bytes.Contains(m, []byte(text)) {
				with = append(with, m)
			}
		}
		return with
	}

	send("u0002", "To: <everybody@"+domain+">\r\n") // Bcc
	send("u0002", "Precedence: bulk\r\n"+toThem("u0002"))
	send("u0004", toThem("u0004"))
	if got := answers("Auto-Submitted"); len(got) != 1 {
		t.Errorf("%d answers, want the echo only", len(got))
	}
	for range 4 {
		send("u0002", toThem("u0002"))
	}
	await(t, c, ann, "Colleagues ask u0004.", 1)
	got := answers("Colleagues ask u0004.")
	if len(got) != 1 {
		t.Fatalf("%d answers to 4 messages by 2 relays, want 1", len(got))
	}
	wantFields(t, got[0], map[string]string{
		"Return-Path": `<>`, "From": `<u0002@away\.test>`, "To": `<u0001@away\.test>`, "Subject": `=\?utf-8\?B\?R3LDvMOfZQ==\?=`,
		"Auto-Submitted": `auto-replied`, "In-Reply-To": `<q\d+@away\.test>`, "References": `<q\d+@away\.test>`,
	})
	for range 2 {
		send("only", toThem("only"))
	}
	await(t, c, ann, "Nobody reads this.", 1)
	if got := answers("Nobody reads this."); len(got) != 1 {
		t.Errorf("%d answers to 2 messages, want 1", len(got))
	}
	echo := answers("report-type=disposition-notification")
	if len(echo) != echoes || !bytes.Contains(echo[0], []byte("Where are you?")) || !bytes.Contains(echo[0], []byte("Your message came.")) {
		t.Errorf("%d echoes of %d", len(echo), echoes)
	}

	// The other replica takes over with the memory.
	old := c.AwaitServing("pair1", 20*time.Second)
	c.Signal(old, syscall.SIGKILL)
	for range 2 {
		send("u0002", toThem("u0002"))
	}
	await(t, c, bob, "Where are you?", 8) // also those that were not answered
	if got := answers("Colleagues ask u0004."); len(got) != 1 {
		t.Errorf("%d answers after the failover, want 1", len(got))
	}
}

package interop

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

// reportScript reads a report as a mail program would: its subject, its words,
// and what they are in, and what RFC 3464 says of the recipient.
const reportScript = `
import email, email.policy, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
assert m.get_content_type() == 'multipart/report' and not m.defects, m.defects
text, status, original = m.iter_parts()
print(text['Content-Language'], m['From'].addresses[0].display_name, m['Subject'], sep='|')
print(status.get_payload()[1]['Action'], status.get_payload()[1]['Final-Recipient'], sep='|')
print(text.get_content())
`

// TestReportLanguage: people of a cluster are told of mail that failed in the
// language of their entry, or of their domain; the report for programs is the
// same.
func TestReportLanguage(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	const domain = "lang.test"
	tree := strings.Replace(string(fixture.Tree(domain, 4, 1)), "mailDomainStatus: active\n", "mailDomainStatus: active\npreferredLanguage: fr-CA\n", 1)
	for uid, language := range map[string]string{"u0002": "de", "u0003": "ja, de;q=0.5", "u0004": "tlh"} {
		head := fmt.Sprintf("mail: %s@%s\n", uid, domain)
		tree = strings.Replace(tree, head, head+"preferredLanguage: "+language+"\n", 1)
	}
	dir := t.TempDir()
	c := cluster.Start(t, "--ldif", write(t, filepath.Join(dir, "tree.ldif"), 0o600, tree))
	users := map[string]cluster.User{}
	for _, u := range c.Info().Users {
		uid, _, _ := strings.Cut(u.Address, "@")
		users[uid] = u
	}
	for uid, want := range map[string][2]string{
		"u0001": {"fr|Système de distribution du courrier|Échec de la remise", "n'a pas pu être remis aux destinataires"},
		"u0002": {"de|Mail-Zustellsystem|Zustellung fehlgeschlagen", "konnte den unten genannten Empfängern nicht zugestellt"},
		"u0003": {"ja|メール配送システム|配送できませんでした", "再送は行われません。"},
		"u0004": {"en|Mail Delivery System|Delivery failed", "could not be delivered to the recipients below"},
	} {
		u := users[uid]
		msg := write(t, filepath.Join(dir, "m.eml"), 0o600, "From: <"+u.Address+">\r\nSubject: to nowhere\r\n\r\nhello\r\n")
		run(t, dir, "", "curl", "-sS", "--ssl-reqd", "-k", "--url", "smtp://"+c.Info().Relays[0].Submission, "--mail-from", u.Address,
			"--mail-rcpt", "x@nowhere.test", "-u", u.Login+":"+u.Password, "-T", msg)
		out := run(t, dir, string(await(t, c, u, "report-type=", 1)[0]), "python3", "-c", reportScript)
		lines := strings.SplitN(out, "\n", 3)
		if lines[0] != want[0] || lines[1] != "failed|rfc822; x@nowhere.test" || !strings.Contains(strings.Join(strings.Fields(lines[2]), " "), want[1]) {
			t.Errorf("%s is told\n%s", uid, out)
		}
	}
}

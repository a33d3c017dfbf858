package interop

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

// pythonRights gives rights to folders by imaplib and posts to them by smtplib: as
// a stranger, as somebody who has logged in, and as the owner.
const pythonRights = `
import imaplib, smtplib, ssl, sys
smtp, imap, sub, login, password, addr, login2, password2, addr2, default, group = sys.argv[1:12]
hp = lambda a: (a.rsplit(':', 1)[0], int(a.rsplit(':', 1)[1]))
ctx = ssl._create_unverified_context()
m = imaplib.IMAP4(*hp(imap)); m.starttls(ssl_context=ctx); m.login(login, password)
caps = m.capability()[1][0].split(); assert b'ACL' in caps and b'RIGHTS=texk' in caps, caps
local, domain = addr.split('@')
counts = {'INBOX': 0}
def post(want, who=None):
    if who is None:
        s = smtplib.SMTP(*hp(smtp)); sender = 'stranger@elsewhere.test'
    else:
        s = smtplib.SMTP(*hp(sub)); s.starttls(context=ctx); s.login(who[0], who[1]); sender = who[2]
    to = local + '+work@' + domain
    s.sendmail(sender, [to], 'From: <%s>\r\nTo: <%s>\r\nSubject: to a folder\r\n\r\nbody\r\n' % (sender, to)); s.quit()
    counts[want] += 1
    for box, n in counts.items():
        typ, data = m.status(box, '(MESSAGES)'); assert ('MESSAGES %d)' % n).encode() in data[0], (want, who, box, n, data)
owner, other = (login, password, addr), (login2, password2, addr2)
def acl():
    typ, data = m.getacl('work'); assert typ == 'OK', data
    f = data[0].decode().replace('"', '').split()[1:]; return dict(zip(f[::2], f[1::2]))

post('INBOX'); post('INBOX', other) # no such folder
assert m.create('work')[0] == 'OK'; counts['work'] = 0
post('work' if default == 'anyone' else 'INBOX'); post('work', owner)
assert acl().get('anyone') == ('p' if default == 'anyone' else None), acl()
assert m.setacl('work', addr2, '+p')[0] == 'OK'
assert m.deleteacl('work', 'anyone')[0] == 'OK'
mine = [r for who, r in acl().items() if who.startswith(local)]; assert len(mine) == 1 and set('lrswipkxtea') <= set(mine[0]), acl()
assert acl().get(addr2) == 'p' and len(acl()) == 2, acl()
post('INBOX'); post('work', other); post('work', owner)
typ, data = m.xatom('LISTRIGHTS', 'work', addr2); assert typ == 'OK', data
typ, data = m.response('LISTRIGHTS'); assert data[0].decode().split()[-2:] == ['""', 'p'], data
typ, data = m.myrights('work'); assert typ == 'OK' and b'lrswipkxtea' in data[0], data
typ, data = m.setacl('work', addr2, 'lrs'); assert typ == 'NO' and b'not shared' in data[0], data
assert m.setacl('work', 'anyone@' + domain, 'p')[0] == 'OK' and m.setacl('work', '-' + addr2, 'p')[0] == 'OK'
assert acl().get('-' + addr2) == 'p' and acl().get('anyone@' + domain) == 'p', acl()
post('INBOX'); post('INBOX', other); post('work', owner)
assert m.deleteacl('work', '-' + addr2)[0] == 'OK' and m.deleteacl('work', addr2)[0] == 'OK'
post('INBOX'); post('work', other)
assert m.setacl('work', '-group=' + group, 'p')[0] == 'OK' # by the group's own entry
post('INBOX', other)
assert m.deleteacl('work', '-' + group)[0] == 'OK' and m.deleteacl('work', 'anyone@' + domain)[0] == 'OK'
post('INBOX', other)
assert m.setacl('work', 'group=' + group, 'p')[0] == 'OK' and acl().get(group) == 'p', acl()
post('INBOX'); post('work', other)
assert m.setacl('work', '-anyone@' + domain, 'p')[0] == 'OK'
post('INBOX', other); post('work', owner)
assert m.rename('work', 'play')[0] == 'OK' and m.create('work')[0] == 'OK' # another folder, without a list
assert m.delete('play')[0] == 'OK'
counts['work'] = 0
post('work' if default == 'anyone' else 'INBOX', other)
assert m.setacl('work', 'anyone', 'p')[0] == 'OK'
post('work')
assert m.setacl('work', 'anyone', '""')[0] == 'OK'
post('INBOX'); post('INBOX', other); post('work', owner)
typ, data = m.getquotaroot('INBOX'); assert typ == 'OK' and data[0][0].split()[0] == b'INBOX', data
m.logout()
print('done')
`

// TestRights: u+work@d lands in folder work if it exists and grants p to the sender
// or to anyone, otherwise in INBOX (directory.md 4.7), through relays and pair, for
// sites of both kinds. The option that tells them apart is changed by a reload. A
// folder that is restored from a snapshot has the list that it had.
func TestRights(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	peertest.Programs(t, "python3")
	c := cluster.Start(t, "--users", "2", "--pairs", "1")
	postern := func(args ...string) {
		t.Helper()
		if out, err := c.Postern(args...); err != nil {
			t.Fatalf("postern %q: %v\n%s", args, err, out)
		}
	}
	postern("upgrade", "finalize") // a new pair does so by itself, but not at once
	dir, r, users := t.TempDir(), c.Info().Relays[0], c.Info().Users
	script := write(t, filepath.Join(dir, "t.py"), 0o600, pythonRights)
	for i, folders := range []string{"anyone", "listed"} {
		if i > 0 {
			for _, node := range []string{"pair1-a", "pair1-b"} {
				config, err := os.OpenFile(filepath.Join(c.Dir, node, node+".yaml"), os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				_, err = config.WriteString("mail:\n  folders: " + folders + "\n")
				if err := errors.Join(err, config.Close()); err != nil {
					t.Fatal(err)
				}
				postern("reload", node)
			}
		}
		owner, other := users[i], users[1-i]
		group := folders + other.Address[strings.IndexByte(other.Address, '@'):]
		postern("directory", "group", "add", group, "--member", other.Address)
		postern("directory", "flush", group) // who is in no group is remembered so
		run(t, dir, "", "python3", script, r.SMTP, r.IMAP, r.Submission, owner.Login, owner.Password, owner.Address, other.Login, other.Password, other.Address, folders, group)
		postern("backup", "create", folders)
		postern("backup", "restore", folders, "--account", owner.Address, "--folder", "work", "--to", "kept")
		out, err := c.Postern("mailbox", "show", owner.Address)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		without := map[string]string{"anyone": "anyone", "listed": "owner"}[folders]
		for box, want := range map[string]string{"INBOX": "anyone", "Junk": without, "work": "owner", "kept": "owner"} {
			if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
				f := strings.Fields(line)
				return len(f) > 6 && f[0] == box && slices.Contains(f, want)
			}) {
				t.Errorf("%s: %s is not %s's:\n%s", folders, box, want, out)
			}
		}
	}
}

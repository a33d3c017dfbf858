package message

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/peertest"
)

// sample is one message of the corpus, with CRLF line ends.
type sample struct {
	name string
	data []byte
}

func corpus(t testing.TB) []sample {
	t.Helper()
	files := peertest.Corpus(t, 1)
	list := make([]sample, 0, len(files))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, sample{filepath.Base(filepath.Dir(f)) + "/" + filepath.Base(f), crlf(b)})
	}
	return list
}

// crlf ends every line with CRLF.
func crlf(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

// dovecot is an IMAP session with Dovecot on a mailbox of its own, without
// network or login.
type dovecot struct {
	t   testing.TB
	dir string
	in  io.WriteCloser
	out *bufio.Reader
	tag int

	stderr *bytes.Buffer
}

const nobody = 65534 // a user without rights

// giveTo makes dir and what is in it the property of a user.
func giveTo(t testing.TB, dir string, uid, gid int) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, uid, gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

const dovecotIMAP = "/usr/lib/dovecot/imap"

func startDovecot(t testing.TB, mails []sample) *dovecot {
	t.Helper()
	if _, err := os.Stat(dovecotIMAP); err != nil {
		peertest.Lacks(t, "dovecot-imapd is not installed")
	}
	dir := t.TempDir()
	for _, sub := range []string{"run", "mail/cur", "mail/new", "mail/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // Dovecot does not read mail as root
		uid, gid = nobody, nobody
	}
	conf := fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/run
protocols = imap
ssl = no
mail_location = maildir:%[1]s/mail
mail_uid = %[2]d
mail_gid = %[3]d
first_valid_uid = 0
first_valid_gid = 0
stats_writer_socket_path =
namespace inbox {
  inbox = yes
}
`, dir, uid, gid)
	confFile := filepath.Join(dir, "dovecot.conf")
	if err := os.WriteFile(confFile, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, m := range mails {
		name := filepath.Join(dir, "mail/cur", fmt.Sprintf("%d.m%d:2,S", 1000000000+i, i))
		if err := os.WriteFile(name, m.data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	giveTo(t, dir, uid, gid)
	d := &dovecot{t: t, dir: dir}
	d.connect()
	return d
}

// connect begins a session. Dovecot ends one when it meets broken content.
func (d *dovecot) connect() {
	t := d.t
	t.Helper()
	cmd := exec.Command(dovecotIMAP, "-c", filepath.Join(d.dir, "dovecot.conf"))
	cmd.Env = []string{"USER=test", "HOME=" + d.dir, "PATH=" + os.Getenv("PATH")}
	d.stderr = new(bytes.Buffer)
	cmd.Stderr = d.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		peertest.Lacks(t, "dovecot-imapd does not start: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait() //nolint:errcheck // it is told to end by its input's end
	})
	d.in, d.out = in, bufio.NewReaderSize(out, 1<<20)
	if _, err := d.out.ReadString('\n'); err != nil {
		cmd.Wait() //nolint:errcheck // its words matter
		peertest.Lacks(t, "dovecot-imapd does not serve here: %s", d.stderr.String())
	}
	d.command("SELECT INBOX")
}

// command returns the untagged responses to a command.
func (d *dovecot) command(cmd string) [][]node {
	d.t.Helper()
	d.tag++
	tag := "t" + strconv.Itoa(d.tag)
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(d.in, tag+" "+cmd+"\r\n")
		done <- err
	}()
	var list [][]node
	for {
		line, err := readResponse(d.out)
		if err != nil {
			d.t.Fatalf("%s: %v", cmd, err)
		}
		if len(line) > 0 && line[0].text == tag {
			if line[1].text != "OK" {
				d.t.Fatalf("%s: %v: %s", cmd, line, d.stderr)
			}
			if err := <-done; err != nil {
				d.t.Fatal(err)
			}
			return list
		}
		list = append(list, line)
	}
}

// try fetches an item of one message that may be refused.
func (d *dovecot) try(seq int, item string) (items map[string]node, ok bool) {
	d.t.Helper()
	d.tag++
	tag := "t" + strconv.Itoa(d.tag)
	if _, err := fmt.Fprintf(d.in, "%s FETCH %d (%s)\r\n", tag, seq, item); err != nil {
		d.t.Fatal(err)
	}
	items = map[string]node{}
	for {
		line, err := readResponse(d.out)
		if err != nil {
			d.connect()
			return nil, false
		}
		if line[0].text == tag {
			return items, line[1].text == "OK"
		}
		addItems(items, line)
	}
}

// addItems adds the items of a FETCH response.
func addItems(items map[string]node, line []node) {
	if len(line) < 4 || line[2].text != "FETCH" {
		return
	}
	for i := 0; i+1 < len(line[3].list); i += 2 {
		items[line[3].list[i].text] = line[3].list[i+1]
	}
}

// fetch returns the items of each FETCH response by message number.
func (d *dovecot) fetch(set, items string) map[int]map[string]node {
	d.t.Helper()
	out := map[int]map[string]node{}
	for _, line := range d.command("FETCH " + set + " " + items) {
		if len(line) < 4 || line[2].text != "FETCH" {
			continue
		}
		seq, _ := strconv.Atoi(line[1].text)
		if out[seq] == nil {
			out[seq] = map[string]node{}
		}
		addItems(out[seq], line)
	}
	return out
}

// dovecotDiffers has the reasons why a description differs, by what tells the
// kind of difference.
var dovecotDiffers = []struct{ ours, theirs, reason string }{
	{`ours "TEXT", theirs ""`, "", "a Content-Type without subtype is text/plain (RFC 2045 5.2), there empty strings"},
	{"theirs (\"CHARSET*\"", "\"CHARSET\" \"US-ASCII\"", "no default charset beside one in the form of RFC 2231"},
	{`ours "CHARSET*"`, `theirs "CHARSET"`, "a boundary in the form of RFC 2231 is one"},
	{`ours ("IMAGE"`, `theirs ""`, "a missing semicolon behind multipart/mixed is forgiven"},
	{"at .1.6:", "", "the line end before a delimiter is the delimiter's (RFC 2046 5.1.1), also behind a header"},
}

// reasonOf is the reason of a difference, if it is a known one.
func reasonOf(difference string) string {
	for _, d := range dovecotDiffers {
		if strings.Contains(difference, d.ours) && strings.Contains(difference, d.theirs) {
			return d.reason
		}
	}
	return "no reason is known"
}

// TestDovecotStructure compares ENVELOPE, BODYSTRUCTURE and BODY with those of
// Dovecot for the same messages. At least 98 in 100 are equal.
func TestDovecotStructure(t *testing.T) {
	mails := corpus(t)
	d := startDovecot(t, mails)
	theirs := d.fetch("1:*", "(RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY)")
	if len(theirs) != len(mails) {
		t.Fatalf("%d messages, want %d", len(theirs), len(mails))
	}
	equal, kinds := 0, map[string]int{}
	for i, m := range mails {
		their := theirs[i+1]
		if their["RFC822.SIZE"].text != strconv.Itoa(len(m.data)) {
			t.Fatalf("%s: size %v, want %d", m.name, their["RFC822.SIZE"], len(m.data))
		}
		p := Parse(m.data)
		ok := true
		for item, wire := range map[string][]byte{
			"ENVELOPE":      AppendEnvelope(nil, p.Envelope, false),
			"BODYSTRUCTURE": AppendBodyStructure(nil, p, true, false),
			"BODY":          AppendBodyStructure(nil, p, false, false),
		} {
			ours, want := parseNode(t, wire), their[item]
			if item != "ENVELOPE" {
				foldBody(ours)
				foldBody(want)
			}
			if !ours.equal(want) {
				ok = false
				diff := difference(ours, want, "")
				kinds[reasonOf(diff)]++
				t.Logf("%s: %s: %s: %s", m.name, item, diff, reasonOf(diff))
			}
		}
		if ok {
			equal++
		}
	}
	rate := 100 * float64(equal) / float64(len(mails))
	t.Logf("%d of %d messages equal (%.2f %%)", equal, len(mails), rate)
	for reason, n := range kinds {
		t.Logf("%d items: %s", n, reason)
	}
	if rate < 98 {
		t.Errorf("only %.2f %% equal, want 98", rate)
	}
}

// difference describes where two values differ first.
func difference(ours, theirs node, path string) string {
	if ours.isList && theirs.isList {
		for i := range ours.list {
			if i < len(theirs.list) && !ours.list[i].equal(theirs.list[i]) {
				return difference(ours.list[i], theirs.list[i], path+"."+strconv.Itoa(i))
			}
		}
	}
	return fmt.Sprintf("at %s: ours %v, theirs %v", path, ours, theirs)
}

// TestDovecotSections compares what Dovecot sends for each section of each
// message, encoded and decoded, with the spans of the parts.
func TestDovecotSections(t *testing.T) {
	mails := corpus(t)
	d := startDovecot(t, mails)
	total, bad := 0, 0
	for i, m := range mails {
		root := Parse(m.data)
		if root.Type != "MULTIPART" && root.Message == nil && i%4 != 0 {
			continue
		}
		for _, sec := range sections(root, nil) {
			p := root.Find(sec.path)
			if p != sec.part {
				t.Fatalf("%s: part %v is not found", m.name, sec.path)
			}
			number := strings.Trim(strings.ReplaceAll(fmt.Sprint(sec.path), " ", "."), "[]")
			want := map[string][]byte{"BODY[" + number + "]": m.data[p.Body.Off:p.Body.End()]}
			if len(sec.path) > 1 || root.Type == "MULTIPART" {
				want["BODY["+number+".MIME]"] = m.data[p.Header.Off:p.Header.End()]
			}
			if p.Message != nil {
				h := p.Message.Header
				want["BODY["+number+".HEADER]"] = m.data[h.Off:h.End()]
			}
			items := make([]string, 0, len(want))
			for item := range want {
				items = append(items, strings.Replace(item, "BODY[", "BODY.PEEK[", 1))
			}
			got := d.fetch(strconv.Itoa(i+1), "("+strings.Join(items, " ")+")")[i+1]
			for item, w := range want {
				total++
				if got[item].text != string(w) {
					bad++
					t.Logf("%s: %s: ours %d octets %.60q, theirs %d octets %.60q", m.name, item, len(w), w, len(got[item].text), got[item].text)
				}
			}
		}
	}
	t.Logf("%d of %d sections equal", total-bad, total)
	if bad*100 > total*2 {
		t.Error("more than 2 % differ")
	}
}

type numbered struct {
	path []int
	part *Part
}

// sections lists the parts of a message with their numbers.
func sections(message *Part, prefix []int) (list []numbered) {
	number := func(n int) []int { return append(prefix[:len(prefix):len(prefix)], n) }
	if message.Type != "MULTIPART" {
		list = append(list, numbered{number(1), message})
		if message.Message != nil {
			list = append(list, sections(message.Message, number(1))...)
		}
		return list
	}
	for i, c := range message.Children {
		list = append(list, numbered{number(i + 1), c})
		if c.Type == "MULTIPART" {
			list = append(list, sections(c, number(i+1))...)
		} else if c.Message != nil {
			list = append(list, sections(c.Message, number(i+1))...)
		}
	}
	return list
}

// TestDovecotDecoding compares the decoded octets of encoded parts with what
// Dovecot sends for BINARY.
func TestDovecotDecoding(t *testing.T) {
	mails := corpus(t)
	d := startDovecot(t, mails)
	total, bad := 0, 0
	for i, m := range mails {
		for _, sec := range sections(Parse(m.data), nil) {
			if e := sec.part.Encoding; e != "BASE64" && e != "QUOTED-PRINTABLE" || sec.part.Message != nil {
				continue
			}
			number := strings.Trim(strings.ReplaceAll(fmt.Sprint(sec.path), " ", "."), "[]")
			item := "BINARY[" + number + "]"
			got, ok := d.try(i+1, "BINARY.PEEK["+number+"]")
			if !ok {
				continue // refused as broken
			}
			total++
			want, _ := sec.part.Decoded(m.data, 0)
			if got[item].text != string(want) {
				bad++
				t.Logf("%s: %s: ours %d octets, theirs %d", m.name, item, len(want), len(got[item].text))
			}
		}
	}
	t.Logf("%d of %d parts equal", total-bad, total)
	if bad*50 > total {
		t.Error("more than 2 % differ")
	}
}

// TestDovecotSearch compares the messages that contain a text, or were sent on
// a day, with those that Dovecot finds.
func TestDovecotSearch(t *testing.T) {
	mails := corpus(t)
	d := startDovecot(t, mails)
	roots := make([]*Part, len(mails))
	for i, m := range mails {
		roots[i] = Parse(m.data)
	}
	total, bad := 0, 0
	none := func(int) bool { return false }
	compare := func(criteria string, skip, ours func(i int) bool) {
		t.Helper()
		theirs := map[int]bool{}
		for _, line := range d.command("SEARCH CHARSET UTF-8 " + criteria) {
			for _, n := range line[min(2, len(line)):] {
				seq, _ := strconv.Atoi(n.text)
				theirs[seq] = line[1].text == "SEARCH"
			}
		}
		for i := range mails {
			if skip(i) {
				continue
			}
			total++
			if o := ours(i); o != theirs[i+1] {
				bad++
				t.Logf("%s: %s: ours %v", mails[i].name, criteria, o)
			}
		}
	}
	for _, word := range []string{"the", "Linux", "http://www.", "viagra", "für", "größe", "ЗДРАВ", "日本", "=20"} {
		needle := Fold([]byte(word))
		compare("BODY \""+word+"\"", none, func(i int) bool { return bodyContains(mails[i].data, roots[i], needle) })
		compare("SUBJECT \""+word+"\"", none, func(i int) bool {
			value, _ := Get(mails[i].data[:roots[i].Header.Len], "Subject")
			return Contains([]byte(DecodeWords(string(value))), needle)
		})
	}
	for _, day := range []string{"23-Aug-2002", "9-Sep-2002", "1-Oct-2002", "6-Jul-2002"} {
		on, _ := time.Parse("2-Jan-2006", day)
		// Dovecot takes a message without a date as sent long ago.
		noDate := func(i int) bool { return roots[i].Envelope.Date == nil }
		compare("SENTBEFORE "+day, noDate, func(i int) bool {
			sent, err := ParseDate(*roots[i].Envelope.Date)
			y, m, d := sent.Date()
			return err == nil && time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Before(on)
		})
	}
	t.Logf("%d of %d answers equal", total-bad, total)
	if bad*50 > total {
		t.Error("more than 2 % differ")
	}
}

// bodyContains looks for needle in the texts of a message and in the headers
// of messages in it.
func bodyContains(msg []byte, p *Part, needle []byte) bool {
	if text, ok := p.Text(msg, 0); ok && Contains(text, needle) {
		return true
	}
	if m := p.Message; m != nil {
		header := DecodeWords(string(msg[m.Header.Off:m.Header.End()]))
		return Contains([]byte(header), needle) || bodyContains(msg, m, needle)
	}
	for _, c := range p.Children {
		if bodyContains(msg, c, needle) {
			return true
		}
	}
	return false
}

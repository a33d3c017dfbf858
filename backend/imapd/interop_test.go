package imapd

import (
	"bytes"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/shared/message"
	"github.com/postern-mail/postern/shared/peertest"
)

// goIMAP returns a client of another make that has logged in.
func (f *fixture) goIMAP(options *imapclient.Options) *imapclient.Client {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	c := imapclient.New(conn, options)
	f.t.Cleanup(func() { c.Close() })
	if err := c.Login("eva@example.test", "secret").Wait(); err != nil {
		f.t.Fatal(err)
	}
	return c
}

func TestGoIMAP(t *testing.T) {
	for name, caps := range map[string][]imap.Cap{
		"rev1": nil, "rev2": {imap.CapIMAP4rev2}, "UTF-8": {imap.CapUTF8Accept},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, nil)
			exists := make(chan uint32, 10)
			c := f.goIMAP(&imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
				Mailbox: func(data *imapclient.UnilateralDataMailbox) {
					if data.NumMessages != nil {
						select {
						case exists <- *data.NumMessages:
						default:
						}
					}
				},
			}})
			if len(caps) > 0 {
				if _, err := c.Enable(caps...).Wait(); err != nil {
					t.Fatal(err)
				}
			}
			goIMAPMailboxes(t, c)
			goIMAPMessages(t, f, c, exists)
			if err := c.Logout().Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func goIMAPMailboxes(t *testing.T, c *imapclient.Client) {
	t.Helper()
	if err := c.Create("Größe/日本", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.Create("Old", &imap.CreateOptions{SpecialUse: []imap.MailboxAttr{imap.MailboxAttrArchive}}).Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := c.List("", "G*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}, ReturnChildren: true}).Collect()
	if err != nil || len(list) != 2 || list[0].Mailbox != "Größe" || list[1].Mailbox != "Größe/日本" || list[1].Status == nil {
		t.Fatalf("%v, %+v", err, list)
	}
	if err := c.Rename("Größe/日本", "Plain", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.Subscribe("Plain").Wait(); err != nil {
		t.Fatal(err)
	}
	list, err = c.List("", "*", &imap.ListOptions{SelectSubscribed: true}).Collect()
	if err != nil || !slices.ContainsFunc(list, func(l *imap.ListData) bool { return l.Mailbox == "Plain" }) {
		t.Fatalf("%v, %+v", err, list)
	}
	if err := c.Unsubscribe("Plain").Wait(); err != nil {
		t.Fatal(err)
	}
	goIMAPRights(t, c)
	if err := c.Delete("Plain").Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Namespace().Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ID(&imap.IDData{Name: "test"}).Wait(); err != nil {
		t.Fatal(err)
	}
}

// goIMAPRights gives and takes the right to post to the mailbox Plain.
func goIMAPRights(t *testing.T, c *imapclient.Client) {
	t.Helper()
	post := imap.RightSet{imap.RightPost}
	if err := c.SetACL("Plain", "bob@example.test", imap.RightModificationAdd, post).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.SetACL("Plain", imap.RightsIdentifierAnyone, imap.RightModificationRemove, post).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.SetACL("Plain", "bob@example.test", imap.RightModificationAdd, imap.RightSetAll).Wait(); err == nil {
		t.Error("somebody has all rights")
	}
	acl, err := c.GetACL("Plain").Wait()
	if err != nil || len(acl.Rights) != 2 || !acl.Rights["bob@example.test"].Equal(post) {
		t.Errorf("%v, %v", acl, err)
	}
	mine, err := c.MyRights("Plain").Wait()
	if err != nil || !mine.Rights.Equal(imap.RightSetAll.Add(imap.RightSet("kxte"))) {
		t.Errorf("%v, %v", mine, err)
	}
}

func goIMAPMessages(t *testing.T, f *fixture, c *imapclient.Client, exists <-chan uint32) {
	t.Helper()
	for _, m := range threeMessages {
		w := c.Append("INBOX", int64(len(m.text)), &imap.AppendOptions{Time: time.Unix(1000000000, 0)})
		w.Write([]byte(m.text))
		w.Close()
		if data, err := w.Wait(); err != nil || data.UID == 0 {
			t.Fatalf("%+v, %v", data, err)
		}
	}
	sel, err := c.Select("INBOX", nil).Wait()
	if err != nil || sel.NumMessages != 3 || sel.UIDNext != 4 {
		t.Fatalf("%+v, %v", sel, err)
	}
	section := &imap.FetchItemBodySection{Peek: true}
	fields := &imap.FetchItemBodySection{Peek: true, Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"Subject"}}
	msgs, err := c.Fetch(imap.SeqSetNum(1, 2, 3), &imap.FetchOptions{
		Envelope: true, Flags: true, InternalDate: true, RFC822Size: true, UID: true,
		BodyStructure: &imap.FetchItemBodyStructure{Extended: true}, BodySection: []*imap.FetchItemBodySection{section, fields},
	}).Collect()
	if err != nil || len(msgs) != 3 {
		t.Fatalf("%d messages, %v", len(msgs), err)
	}
	for i, m := range msgs {
		text := threeMessages[i].text
		if string(m.FindBodySection(section)) != text || m.RFC822Size != int64(len(text)) || !m.InternalDate.Equal(time.Unix(1000000000, 0)) {
			t.Errorf("message %d: %+v", i, m)
		}
	}
	if s := msgs[2].Envelope.Subject; s != "Grüße" {
		t.Errorf("subject %q", s)
	}
	if b := msgs[0].FindBodySection(fields); string(b) != "Subject: First\r\n\r\n" {
		t.Errorf("fields %q", b)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Body: []string{"Grüße"}}, nil).Wait()
	if err != nil || len(found.AllUIDs()) != 1 || found.AllUIDs()[0] != 3 {
		t.Fatalf("%+v, %v", found, err)
	}
	stored, err := c.Store(imap.SeqSetNum(1, 2), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagFlagged, "$Label"}}, nil).Collect()
	if err != nil || len(stored) != 2 || len(stored[0].Flags) != 2 {
		t.Fatalf("%+v, %v", stored, err)
	}
	if data, err := c.Copy(imap.UIDSetNum(1, 3), "Old").Wait(); err != nil || len(data.DestUIDs) == 0 {
		t.Fatalf("%+v, %v", data, err)
	}
	if _, err := c.Move(imap.UIDSetNum(2), "Old").Wait(); err != nil {
		t.Fatal(err)
	}
	idle, err := c.Idle()
	if err != nil {
		t.Fatal(err)
	}
	for len(exists) > 0 {
		<-exists
	}
	f.login("eva@example.test").appendMail("INBOX", "", "A: b\r\n")
	if n := <-exists; n != 3 {
		t.Errorf("%d messages", n)
	}
	if err := idle.Close(); err != nil {
		t.Fatal(err)
	}
	if err := idle.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Store(imap.SeqSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Collect(); err != nil {
		t.Fatal(err)
	}
	if seqs, err := c.Expunge().Collect(); err != nil || !slices.Equal(seqs, []uint32{1}) {
		t.Fatalf("%v, %v", seqs, err)
	}
	status, err := c.Status("Old", &imap.StatusOptions{NumMessages: true, UIDNext: true, NumUnseen: true, Size: true}).Wait()
	if err != nil || *status.NumMessages != 3 {
		t.Fatalf("%+v, %v", status, err)
	}
	if err := c.Unselect().Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestCorpus stores real messages and compares what comes back with them and
// with their structure.
func TestCorpus(t *testing.T) {
	files := peertest.Corpus(t, 1)
	if testing.Short() || raceEnabled {
		files = files[:100]
	}
	f := start(t, nil)
	c := f.goIMAP(nil)
	var texts [][]byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		if len(b) == 0 || bytes.IndexByte(b, 0) >= 0 { // no literal can hold it
			continue
		}
		w := c.Append("INBOX", int64(len(b)), nil)
		w.Write(b)
		w.Close()
		if _, err := w.Wait(); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		texts = append(texts, b)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	whole := &imap.FetchItemBodySection{Peek: true}
	header := &imap.FetchItemBodySection{Peek: true, Specifier: imap.PartSpecifierHeader}
	text := &imap.FetchItemBodySection{Peek: true, Specifier: imap.PartSpecifierText}
	var all imap.SeqSet
	all.AddRange(1, 0)
	msgs, err := c.Fetch(all, &imap.FetchOptions{
		Envelope: true, RFC822Size: true, BodyStructure: &imap.FetchItemBodyStructure{Extended: true},
		BodySection: []*imap.FetchItemBodySection{whole, header, text},
	}).Collect()
	if err != nil || len(msgs) != len(texts) {
		t.Fatalf("%d messages of %d, %v", len(msgs), len(texts), err)
	}
	for i, m := range msgs {
		want := texts[i]
		if !bytes.Equal(m.FindBodySection(whole), want) || m.RFC822Size != int64(len(want)) {
			t.Errorf("message %d differs", i)
		}
		if joined := append(bytes.Clone(m.FindBodySection(header)), m.FindBodySection(text)...); !bytes.Equal(joined, want) {
			t.Errorf("message %d: header and text are not the message", i)
		}
	}
	t.Run("parts", func(t *testing.T) { compareParts(t, c, msgs, texts) })
}

// compareParts fetches the parts of the first messages.
func compareParts(t *testing.T, c *imapclient.Client, msgs []*imapclient.FetchMessageBuffer, texts [][]byte) {
	for i, m := range msgs[:min(len(msgs), 200)] {
		root := message.Parse(texts[i])
		options := &imap.FetchOptions{}
		var want [][]byte
		m.BodyStructure.Walk(func(path []int, part imap.BodyStructure) bool {
			if leaf, ok := part.(*imap.BodyStructureSinglePart); ok && len(options.BodySection) < 20 {
				p := root.Find(path)
				if p == nil || p.Body.Len != int64(leaf.Size) {
					t.Errorf("message %d: no part %v of %d octets", i, path, leaf.Size)
					return true
				}
				want = append(want, texts[i][p.Body.Off:p.Body.End()])
				options.BodySection = append(options.BodySection, &imap.FetchItemBodySection{Part: slices.Clone(path), Peek: true})
			}
			return true
		})
		if len(want) == 0 {
			continue
		}
		got, err := c.Fetch(imap.SeqSetNum(m.SeqNum), options).Collect()
		if err != nil || len(got) != 1 {
			t.Fatalf("message %d: %v", i, err)
		}
		for k, section := range options.BodySection {
			if !bytes.Equal(got[0].FindBodySection(section), want[k]) {
				t.Errorf("message %d: part %v differs", i, section.Part)
			}
		}
	}
}

package imapd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/shared/imapwire"
)

// script is a connection whose client has said everything beforehand.
type script struct {
	in  *strings.Reader
	out bytes.Buffer
}

func (c *script) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *script) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *script) Close() error                     { return nil }
func (c *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *script) SetDeadline(time.Time) error      { return nil }
func (c *script) SetReadDeadline(time.Time) error  { return nil }
func (c *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzCommand sends anything to a session. Whatever it is, the session ends
// with the input, and what it answers is made of whole responses.
func FuzzCommand(f *testing.F) {
	for _, dialogs := range []map[string]string{conformance} {
		for _, dialog := range dialogs {
			var in strings.Builder
			for step := range strings.Lines(dialog) {
				step = strings.Trim(step, "\t\n")
				switch {
				case strings.HasPrefix(step, "C: "):
					in.WriteString(step[3:] + "\r\n")
				case strings.HasPrefix(step, "L: "):
					in.WriteString("l " + unquote(step[3:]) + "\r\n")
				case strings.HasPrefix(step, "C+ "):
					in.WriteString(unquote(step[3:]))
				}
			}
			f.Add(in.String())
		}
	}
	for _, in := range []string{
		"a FETCH 1:* (FLAGS BODY.PEEK[1.2.HEADER.FIELDS.NOT (A B)]<1.2> BINARY[1]<0.1> ENVELOPE BODYSTRUCTURE)\r\n",
		"a SEARCH RETURN (MIN SAVE) CHARSET UTF-8 OR (NOT FROM a SENTSINCE 1-Jan-2020) UID $ HEADER a \"\" TEXT {1+}\r\nb\r\n",
		"a STORE $ (UNCHANGEDSINCE 1) -FLAGS.SILENT (\\Seen a b)\r\na UID EXPUNGE *\r\n",
		"a LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (% * \"a\") RETURN (CHILDREN STATUS (SIZE))\r\n",
		"a IDLE\r\nDONE\r\na IDLE\r\nnot done\r\na LOGOUT\r\n",
		"a AUTHENTICATE PLAIN\r\n*\r\na ID (\"a\" NIL)\r\na {1+}\r\n",
		"a APPEND INBOX (\\Seen) \" 1-Jan-2020 00:00:00 +0000\" ~{3+}\r\nabc UTF8 (~{3+}\r\nabc)\r\n",
		"a SELECT INBOX (CONDSTORE QRESYNC (1 2 1:3 (1:2 1:2)))\r\na CREATE b (USE (\\Junk))\r\n",
		"a SETACL Junk {3+}\r\nbob +p\r\na SETACL Junk \"\" -\xff\r\na LISTRIGHTS Junk \"b\\\"\xc3\xbc\"\r\na GETACL Junk\r\na MYRIGHTS junk\r\na DELETEACL Junk anyone\r\n",
	} {
		f.Add(in)
	}
	boxes, _ := mailboxtest.NewWithLog(f, func(c *mailbox.Config) { c.Level = func() uint32 { return 2 } })
	srv, err := New(Config{
		Mailboxes: boxes, Authenticate: checkLogin, PasswordLogin: true, AuthDelay: 1,
		Log: slog.New(slog.DiscardHandler), MaxAppend: 1 << 20,
	})
	if err != nil {
		f.Fatal(err)
	}
	run := func(in string) []byte {
		c := &script{in: strings.NewReader(in)}
		srv.serve(context.Background(), c)
		return c.out.Bytes()
	}
	setUp := "l LOGIN fuzz@example.test secret\r\n"
	for _, m := range threeMessages {
		setUp += "l APPEND INBOX {" + string(imapwire.AppendNumber(nil, len(m.text))) + "+}\r\n" + m.text + "\r\n"
	}
	if out := run(setUp); bytes.Count(out, []byte("l OK")) != 4 {
		f.Fatalf("%q", out)
	}
	f.Fuzz(func(t *testing.T, in string) {
		checkResponses(t, run(in))
		checkResponses(t, run("l LOGIN fuzz@example.test secret\r\nl SELECT INBOX\r\n"+in))
		checkResponses(t, run("l LOGIN fuzz@example.test secret\r\nl ENABLE QRESYNC IMAP4rev2 UTF8=ACCEPT\r\nl EXAMINE INBOX\r\n"+in))
		if n := srv.appending.Load(); n != 0 {
			t.Errorf("%d octets of messages are still counted", n)
		}
		if n := srv.Sessions(); n != 0 {
			t.Errorf("%d sessions are still counted", n)
		}
	})
}

// checkResponses reads responses to the end.
func checkResponses(t *testing.T, out []byte) {
	t.Helper()
	r := imapwire.NewReader(bytes.NewReader(out), 64<<10, 1<<20)
	for {
		resp, err := r.ReadResponse()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v at %q", err, resp.Bytes)
		}
		piece, status := resp.Piece, resp.IsStatus()
		for {
			if !piece.More && !piece.HasLit && !bytes.HasSuffix(piece.Bytes, []byte("\r\n")) {
				t.Fatalf("line ends without CRLF: %q", piece.Bytes)
			}
			if piece.HasLit {
				if err := r.Discard(piece.Literal.Size); err != nil {
					t.Fatalf("literal of %d octets: %v", piece.Literal.Size, err)
				}
			}
			if !piece.More && !piece.HasLit {
				break
			}
			if piece, err = r.RestOfResponse(status); err != nil {
				t.Fatal(err)
			}
		}
	}
}

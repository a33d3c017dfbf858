package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// between is the part of s behind the first from and before the next to.
func between(t *testing.T, s, from, to string) string {
	t.Helper()
	_, s, ok := strings.Cut(s, from)
	s, _, ok2 := strings.Cut(s, to)
	if !ok || !ok2 {
		t.Fatalf("%q or %q missing", from, to)
	}
	return s
}

func TestSections(t *testing.T) {
	c := start(t, nil).withMessages()
	c.do("SELECT INBOX")
	one, two := threeMessages[0].text, threeMessages[1].text
	head := func(s string) string { return s[:strings.Index(s, "\r\n\r\n")+4] }
	body := func(s string) string { return s[strings.Index(s, "\r\n\r\n")+4:] }
	inner := "From: inner" + between(t, two, "From: inner", "\r\n--xx--")
	for _, tt := range []struct {
		seq        int
		item, want string
	}{
		{1, "BODY[]", one},
		{2, "BODY[]", two},
		{2, "BODY[]<0.10>", two[:10]},
		{2, "BODY[]<100.50>", two[100:150]},
		{2, "BODY[]<900.9000>", two[min(900, len(two)):]},
		{2, "BODY[]<5000.1>", ""},
		{2, "BODY[]<9223372036854775806.9223372036854775806>", ""},
		{1, "BODY[HEADER]", head(one)},
		{1, "BODY[TEXT]", body(one)},
		{1, "BODY[TEXT]<7.5>", "World"},
		{1, "BODY[1]", body(one)},
		{1, "BODY[1.MIME]", head(one)},
		{2, "BODY[HEADER]", head(two)},
		{2, "BODY[TEXT]", body(two)},
		{2, "BODY[1]", "First part"},
		{2, "BODY[1.MIME]", "Content-Type: text/plain; charset=us-ascii\r\n\r\n"},
		{2, "BODY[2]", "AAECA/8="},
		{2, "BODY[2]<4.2>", "A/"},
		{2, "BODY[3]", inner},
		{2, "BODY[3.HEADER]", head(inner)},
		{2, "BODY[3.TEXT]", body(inner)},
		{2, "BODY[3.1]", "inner text"},
		{2, "BODY[3.1.MIME]", "\r\n"},
		{2, "BODY[3.2]", "<p>inner html</p>"},
		{2, "BODY[3.2.MIME]", "Content-Type: text/html\r\n\r\n"},
		{2, "BODY[3.HEADER.FIELDS (SUBJECT FROM)]", "From: inner@example.net\r\nSubject: Inside\r\n\r\n"},
		{2, "BODY[HEADER.FIELDS (subject Cc)]", "Cc: Carl <carl@example.com>\r\nSubject: Second\r\n\r\n"},
		{2, "BODY[HEADER.FIELDS (Subject)]<9.3>", "Sec"},
		{2, "BODY[HEADER.FIELDS (X-None)]", "\r\n"},
		{3, "BODY[HEADER.FIELDS.NOT (From Content-Type Content-Transfer-Encoding)]", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n"},
		{3, "BINARY[1]", "Grüße\r\n"},
		{2, "BINARY[3.2]", "<p>inner html</p>"},
		{2, "BINARY[3]", inner},
		{2, "BINARY[]", two},
		{2, "BINARY[1]<6.4>", "part"},
		{1, "RFC822", one},
		{1, "RFC822.HEADER", head(one)},
		{1, "RFC822.TEXT", body(one)},
	} {
		ask := strings.Replace(strings.Replace(tt.item, "BODY[", "BODY.PEEK[", 1), "BINARY[", "BINARY.PEEK[", 1)
		label := tt.item
		if i := strings.IndexByte(label, '<'); i >= 0 {
			label = label[:strings.IndexByte(label[i:], '.')+i] + ">"
		}
		lines := c.do(fmt.Sprintf("FETCH %d %s", tt.seq, ask))
		want := fmt.Sprintf("* %d FETCH (%s {%d}\r\n%s)", tt.seq, label, len(tt.want), tt.want)
		if got := lines[0]; got != want && !strings.HasPrefix(tt.item, "RFC822") {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.item, got, want)
		} else if !strings.Contains(got, fmt.Sprintf("%s {%d}\r\n%s", label, len(tt.want), tt.want)) {
			t.Errorf("%s: got %q", tt.item, got)
		}
	}
	for _, item := range []string{"BODY[4]", "BODY[1.1]", "BODY[1.HEADER]", "BODY[2.TEXT]", "BODY[3.9.MIME]", "BINARY[7]"} {
		ask := strings.Replace(strings.Replace(item, "BODY[", "BODY.PEEK[", 1), "BINARY[", "BINARY.PEEK[", 1)
		if got, want := c.do("FETCH 2 " + ask)[0], "* 2 FETCH ("+item+" NIL)"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got, want := c.do("FETCH 2 (BINARY.SIZE[7] BINARY.SIZE[] BINARY.SIZE[2])")[0],
		fmt.Sprintf("* 2 FETCH (BINARY.SIZE[7] 0 BINARY.SIZE[] %d BINARY.SIZE[2] 5)", len(two)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

const (
	envelopeOne = `("Mon, 2 Nov 2026 10:00:00 +0100" "First" (("Ann" NIL "ann" "example.net")) (("Ann" NIL "ann" "example.net")) (("Ann" NIL "ann" "example.net")) ((NIL NIL "eva" "example.test")) NIL NIL NIL "<1@example.net>")`
	bodyOne     = `("TEXT" "PLAIN" ("charset" "us-ascii") NIL NIL "7BIT" 14 1`
)

func TestFetchDialogs(t *testing.T) {
	for name, dialog := range map[string]string{
		"macros and structure": `
			C: a FETCH 1 FAST
			S: * 1 FETCH (FLAGS (\Seen) INTERNALDATE "*" RFC822.SIZE 176)
			S: a OK *
			C: a FETCH 1 ALL
			S: * 1 FETCH (FLAGS (\Seen) INTERNALDATE "*" RFC822.SIZE 176 ENVELOPE ` + envelopeOne + `)
			S: a OK *
			C: a FETCH 1 FULL
			S: * 1 FETCH (FLAGS (\Seen) INTERNALDATE "*" RFC822.SIZE 176 ENVELOPE ` + envelopeOne + ` BODY ` + bodyOne + `))
			S: a OK *
			C: a FETCH 1 BODYSTRUCTURE
			S: * 1 FETCH (BODYSTRUCTURE ` + bodyOne + ` NIL NIL NIL NIL))
			S: a OK *`,
		"seen is set by text and not by a look": `
			C: a FETCH 2:3 BODY.PEEK[HEADER.FIELDS (X)]
			S: * 2 FETCH (BODY[HEADER.FIELDS (X)] {2}
			S: 
			S: )
			S: * 3 FETCH (BODY[HEADER.FIELDS (X)] {2}
			S: 
			S: )
			S: a OK *
			C: a FETCH 2 RFC822.HEADER
			S: * 2 FETCH (RFC822.HEADER {*
			S: From: "Bob B." <bob@example.org>
			S: To: *
			S: Cc: *
			S: Subject: *
			S: Date: *
			S: Message-ID: *
			S: In-Reply-To: *
			S: MIME-Version: *
			S: Content-Type: *
			S: 
			S: )
			S: a OK *
			C: a SEARCH UNSEEN
			S: * SEARCH 2 3
			S: a OK *
			C: a FETCH 1:3 BODY[HEADER.FIELDS (X)]
			S: * 1 FETCH (BODY[HEADER.FIELDS (X)] {2}
			S: 
			S: )
			S: * 2 FETCH (FLAGS (\Seen) BODY[HEADER.FIELDS (X)] {2}
			S: 
			S: )
			S: * 3 FETCH (FLAGS (\Seen) BODY[HEADER.FIELDS (X)] {2}
			S: 
			S: )
			S: a OK *
			C: a NOOP
			S: a OK *
			C: a SEARCH UNSEEN
			S: * SEARCH
			S: a OK *`,
		"read-only mailboxes keep their flags": `
			L: EXAMINE INBOX
			C: a FETCH 2 BODY[]<0.4>
			S: * 2 FETCH (BODY[]<0> {4}
			S: From)
			S: a OK *
			C: a STORE 2 +FLAGS (\Seen)
			S: a NO [READ-ONLY] *
			C: a EXPUNGE
			S: a NO [READ-ONLY] *
			C: a MOVE 1 Trash
			S: a NO [READ-ONLY] *
			C: a SEARCH UNSEEN
			S: * SEARCH 2 3
			S: a OK *`,
		"sets": `
			C: a FETCH * UID
			S: * 3 FETCH (UID 3)
			S: a OK *
			C: a FETCH 3:2,2 UID
			S: * 2 FETCH (UID 2)
			S: * 3 FETCH (UID 3)
			S: a OK *
			C: a FETCH *:2 UID
			S: * 2 FETCH (UID 2)
			S: * 3 FETCH (UID 3)
			S: a OK *
			C: a FETCH 4 UID
			S: a BAD *
			C: a FETCH 1:4 UID
			S: a BAD *
			C: a UID FETCH 77:* FLAGS
			S: * 3 FETCH (UID 3 FLAGS ())
			S: a OK *
			C: a UID FETCH 4,77 FLAGS
			S: a OK *
			C: a UID FETCH 1:4294967295 UID
			S: * 1 FETCH (UID 1)
			S: * 2 FETCH (UID 2)
			S: * 3 FETCH (UID 3)
			S: a OK *
			L: SELECT Archive
			C: a FETCH 1:* UID
			S: a BAD *
			C: a UID FETCH 1:* UID
			S: a OK *
			C: a SEARCH 1:*
			S: * SEARCH
			S: a OK *`,
		"unknown encoding": `
			L: APPEND INBOX {63+}\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: x-funny\r\n\r\nabcdef
			C: a FETCH 1,4 BINARY.PEEK[1]
			S: * 1 FETCH (BINARY[1] {14}
			S: Hello, World
			S: )
			S: a NO [UNKNOWN-CTE] *
			C: a FETCH 4 BODY.PEEK[1]
			S: * 4 FETCH (BODY[1] {6}
			S: abcdef)
			S: a OK *`,
		"syntax": `
			C: a FETCH
			S: a BAD *
			C: a FETCH 1
			S: a BAD *
			C: a FETCH 0 UID
			S: a BAD *
			C: a FETCH 1 ()
			S: a BAD *
			C: a FETCH 1 (FAST)
			S: a BAD *
			C: a NOOP
			S: a OK *
			C: a FETCH 1 BODY[0]
			S: a BAD *
			C: a FETCH 1 BODY[1.]
			S: a BAD *
			C: a FETCH 1 BODY[MIME]
			S: a BAD *
			C: a FETCH 1 BODY[]<0.0>
			S: a BAD *
			C: a FETCH 1 BODY[HEADER.FIELDS ()]
			S: a BAD *
			C: a FETCH 1 BINARY[HEADER]
			S: a BAD *
			C: a FETCH 1 BODY[HEADER.FIELDS (a:b)]
			S: a BAD *
			C: a NOOP
			S: a OK *`,
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, nil).withMessages()
			c.do("SELECT INBOX")
			c.talk(dialog)
		})
	}
}

// TestBigMessage fetches a message that is stored in several pieces.
func TestBigMessage(t *testing.T) {
	c := start(t, nil).login("eva@example.test")
	var b strings.Builder
	b.WriteString("Subject: big\r\n\r\n")
	for i := 0; b.Len() < 3<<20; i++ {
		fmt.Fprintf(&b, "line %d of a message that is big\r\n", i)
	}
	text := b.String()
	c.appendMail("INBOX", "", text)
	c.do("SELECT INBOX")
	if got := c.do("FETCH 1 BODY.PEEK[]")[0]; got != fmt.Sprintf("* 1 FETCH (BODY[] {%d}\r\n%s)", len(text), text) {
		t.Errorf("got %d octets of %d", len(got), len(text))
	}
	if got := c.do("FETCH 1 BODY.PEEK[]<1000000.1000000>")[0]; !strings.HasSuffix(got, text[1000000:2000000]+")") {
		t.Errorf("part differs: %d octets", len(got))
	}
	last := strings.TrimSpace(text[strings.LastIndex(text[:len(text)-2], "\r\n"):])
	if got := c.do("SEARCH BODY \"" + last + "\"")[0]; got != "* SEARCH 1" {
		t.Errorf("last line not found: %q", got)
	}
}

// TestManyHeaders lists the headers of more messages than are read at once.
func TestManyHeaders(t *testing.T) {
	f := start(t, nil)
	const n = 3*fetchRows + 20
	f.fill(n, 1<<10)
	c := f.login("eva@example.test")
	c.do("SELECT INBOX")
	lines := c.do("FETCH 1:* (UID FLAGS ENVELOPE BODY[HEADER.FIELDS (SUBJECT)])")
	if len(lines) != n {
		t.Fatalf("%d responses", len(lines))
	}
	for i, line := range lines {
		subject := fmt.Sprintf("Report number %d about the things of the week", i)
		field := "Subject: " + subject + "\r\n\r\n"
		if !strings.HasPrefix(line, fmt.Sprintf(`* %d FETCH (UID %d FLAGS (\Seen) ENVELOPE (`, i+1, i+1)) ||
			!strings.Contains(line, `"`+subject+`"`) ||
			!strings.HasSuffix(line, fmt.Sprintf("BODY[HEADER.FIELDS (SUBJECT)] {%d}\r\n%s)", len(field), field)) {
			t.Errorf("response %d: %q", i, line)
		}
	}
	if lines := c.do("NOOP"); len(lines) > 0 {
		t.Errorf("told again: %q", lines)
	}
	if got := c.do("STATUS INBOX (UNSEEN)")[0]; got != "* STATUS INBOX (UNSEEN 0)" {
		t.Error(got)
	}
}

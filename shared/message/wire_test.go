package message

import (
	"fmt"
	"strings"
	"testing"
)

// wholeMessage is the message of which RFC 9051 6.4.5.1 numbers the parts.
var wholeMessage = strings.ReplaceAll(`From: Fred Foobar <foobar@Blurdybloop.example>
Content-Type: multipart/mixed; boundary=m

--m
Content-Type: text/plain

1
--m
Content-Type: application/octet-stream

2
--m
Content-Type: message/rfc822

Subject: 3
Content-Type: multipart/mixed; boundary=n

--n
Content-Type: text/plain

3.1
--n
Content-Type: application/octet-stream

3.2
--n--
--m
Content-Type: multipart/mixed; boundary=o

--o
Content-Type: image/gif

4.1
--o
Content-Type: message/rfc822

Subject: 4.2
Content-Type: multipart/mixed; boundary=p

--p
Content-Type: text/plain

4.2.1
--p
Content-Type: multipart/alternative; boundary=q

--q
Content-Type: text/plain

4.2.2.1
--q
Content-Type: text/richtext

4.2.2.2
--q--
--p--
--o--
--m--
`, "\n", "\r\n")

func TestFind(t *testing.T) {
	simple := "Subject: x\r\n\r\nbody"
	forwarded := "Content-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\ninner"
	for _, tt := range []struct {
		msg, path, typ, body string
	}{
		{wholeMessage, "", "MULTIPART/MIXED", ""},
		{wholeMessage, "1", "TEXT/PLAIN", "1"},
		{wholeMessage, "2", "APPLICATION/OCTET-STREAM", "2"},
		{wholeMessage, "3", "MESSAGE/RFC822", ""},
		{wholeMessage, "3.1", "TEXT/PLAIN", "3.1"},
		{wholeMessage, "3.2", "APPLICATION/OCTET-STREAM", "3.2"},
		{wholeMessage, "4", "MULTIPART/MIXED", ""},
		{wholeMessage, "4.1", "IMAGE/GIF", "4.1"},
		{wholeMessage, "4.2", "MESSAGE/RFC822", ""},
		{wholeMessage, "4.2.1", "TEXT/PLAIN", "4.2.1"},
		{wholeMessage, "4.2.2", "MULTIPART/ALTERNATIVE", ""},
		{wholeMessage, "4.2.2.1", "TEXT/PLAIN", "4.2.2.1"},
		{wholeMessage, "4.2.2.2", "TEXT/RICHTEXT", "4.2.2.2"},
		{wholeMessage, "0", "", ""},
		{wholeMessage, "5", "", ""},
		{wholeMessage, "1.1", "", ""},
		{wholeMessage, "3.3", "", ""},
		{wholeMessage, "4.2.2.2.1", "", ""},
		{simple, "1", "TEXT/PLAIN", "body"},
		{simple, "2", "", ""},
		{simple, "1.1", "", ""},
		{forwarded, "1", "MESSAGE/RFC822", "Subject: y\r\n\r\ninner"},
		{forwarded, "1.1", "TEXT/PLAIN", "inner"},
		{forwarded, "1.2", "", ""},
		{forwarded, "1.1.1", "", ""},
	} {
		var path []int
		for n := range strings.FieldsFuncSeq(tt.path, func(r rune) bool { return r == '.' }) {
			path = append(path, int(n[0]-'0'))
		}
		p := Parse([]byte(tt.msg)).Find(path)
		if p == nil {
			if tt.typ != "" {
				t.Errorf("%q: none", tt.path)
			}
			continue
		}
		body := tt.msg[p.Body.Off:p.Body.End()]
		if p.Type+"/"+p.Subtype != tt.typ || tt.body != "" && body != tt.body {
			t.Errorf("%q: %s/%s %q, want %s %q", tt.path, p.Type, p.Subtype, body, tt.typ, tt.body)
		}
	}
}

// TestAppendEnvelope has the example of RFC 9051 8 and what the rules say of
// absent fields.
func TestAppendEnvelope(t *testing.T) {
	for name, tt := range map[string]struct {
		header, want string
		utf8         bool
	}{
		"RFC 9051": {
			"Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\nFrom: Terry Gray <gray@cac.washington.edu>\r\n" +
				"Subject: IMAP4rev2 WG mtg summary and minutes\r\nTo: imap@cac.washington.edu\r\n" +
				"cc: minutes@CNRI.Reston.VA.US,\r\n John Klensin <KLENSIN@MIT.EDU>\r\n" +
				"Message-Id: <B27397-0100000@cac.washington.ed>\r\n",
			`("Wed, 17 Jul 1996 02:23:25 -0700 (PDT)" "IMAP4rev2 WG mtg summary and minutes" ` +
				`(("Terry Gray" NIL "gray" "cac.washington.edu")) (("Terry Gray" NIL "gray" "cac.washington.edu")) ` +
				`(("Terry Gray" NIL "gray" "cac.washington.edu")) ((NIL NIL "imap" "cac.washington.edu")) ` +
				`((NIL NIL "minutes" "CNRI.Reston.VA.US")("John Klensin" NIL "KLENSIN" "MIT.EDU")) NIL NIL ` +
				`"<B27397-0100000@cac.washington.ed>")`, false,
		},
		"nothing":       {"", "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)", false},
		"empty":         {"Subject:\r\nFrom:\r\nMessage-ID: \r\n", `(NIL "" NIL NIL NIL NIL NIL NIL NIL "")`, false},
		"sender":        {"Sender: a@b\r\n", `(NIL NIL NIL ((NIL NIL "a" "b")) NIL NIL NIL NIL NIL NIL)`, false},
		"8-bit":         {"Subject: \xc3\xa4\r\n", "(NIL {2}\r\n\xc3\xa4 NIL NIL NIL NIL NIL NIL NIL NIL)", false},
		"8-bit, UTF-8":  {"Subject: \xc3\xa4\\\r\n", "(NIL \"\xc3\xa4\\\\\" NIL NIL NIL NIL NIL NIL NIL NIL)", true},
		"no UTF-8":      {"Subject: \xe4\r\n", "(NIL {1}\r\n\xe4 NIL NIL NIL NIL NIL NIL NIL NIL)", true},
		"quotes":        {"Subject: a \"b\" \\c\r\n", `(NIL "a \"b\" \\c" NIL NIL NIL NIL NIL NIL NIL NIL)`, false},
		"NUL":           {"Subject: a\x00\r\n", "(NIL {4}\r\na\xef\xbf\xbd NIL NIL NIL NIL NIL NIL NIL NIL)", false},
		"CR":            {"Subject: a\rb\r\n", "(NIL \"ab\" NIL NIL NIL NIL NIL NIL NIL NIL)", false},
		"CR in date":    {"Date: a\rb\r\n", "({3}\r\na\rb NIL NIL NIL NIL NIL NIL NIL NIL NIL)", false},
		"white space":   {"Subject:  a \t b \r\n\tc \r\n", `(NIL "a b c" NIL NIL NIL NIL NIL NIL NIL NIL)`, false},
		"last one":      {"Subject: a\r\nSubject: b\r\n", `(NIL "b" NIL NIL NIL NIL NIL NIL NIL NIL)`, false},
		"two fields To": {"To: a@b\r\nTo: c@d\r\n", `(NIL NIL NIL NIL NIL ((NIL NIL "a" "b")(NIL NIL "c" "d")) NIL NIL NIL NIL)`, false},
	} {
		p := Parse([]byte(tt.header + "\r\n"))
		if got := string(AppendEnvelope(nil, p.Envelope, tt.utf8)); got != tt.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, tt.want)
		}
	}
	if got := string(AppendEnvelope(nil, nil, false)); got != "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)" {
		t.Errorf("nil: %s", got)
	}
}

// TestAddresses has the forms of RFC 5322 and what becomes of odd ones.
func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"a@b":                      `((NIL NIL "a" "b"))`,
		"<a@b>":                    `((NIL NIL "a" "b"))`,
		"A B <a@b>":                `(("A B" NIL "a" "b"))`,
		"\"A, B\" <a@b>":           `(("A, B" NIL "a" "b"))`,
		"\"A \\\"B\\\\\" C <a@b>":  `(("A \"B\\ C" NIL "a" "b"))`,
		"a@b (A B)":                `(("A B" NIL "a" "b"))`,
		"a@b (A (B) C)":            `(("A (B) C" NIL "a" "b"))`,
		"A. B. <a@b>":              `(("A. B." NIL "a" "b"))`,
		"\"a b\"@c":                `((NIL NIL "a b" "c"))`,
		"a@[1.2.3.4]":              `((NIL NIL "a" "[1.2.3.4]"))`,
		"a . b@c . d":              `(("a. b" NIL "MISSING_MAILBOX" "MISSING_DOMAIN"))`,
		"..a.@b":                   `((NIL NIL "..a." "b"))`,
		"<@x,@y:a@b>":              `((NIL "@x,@y" "a" "b"))`,
		"<@x a@b>":                 `((NIL "INVALID_ROUTE" "a" "b"))`,
		"a@b, c@d":                 `((NIL NIL "a" "b")(NIL NIL "c" "d"))`,
		"a@b,,c@d":                 `((NIL NIL "a" "b")(NIL NIL "MISSING_MAILBOX" "MISSING_DOMAIN")(NIL NIL "c" "d"))`,
		"a@b,":                     `((NIL NIL "a" "b"))`,
		"g: a@b, c@d;":             `((NIL NIL "g" NIL)(NIL NIL "a" "b")(NIL NIL "c" "d")(NIL NIL NIL NIL))`,
		"undisclosed recipients:;": `((NIL NIL "undisclosed recipients" NIL)(NIL NIL NIL NIL))`,
		"g: a@b":                   `((NIL NIL "g" NIL)(NIL NIL "a" "b")(NIL NIL NIL NIL))`,
		"a":                        `((NIL NIL "a" "MISSING_DOMAIN"))`,
		"a b":                      `(("a b" NIL "MISSING_MAILBOX" "MISSING_DOMAIN"))`,
		"\"a b\"":                  `(("a b" NIL "MISSING_MAILBOX" "MISSING_DOMAIN"))`,
		"A <a@b":                   `(("A" NIL "a" "SYNTAX_ERROR"))`,
		"<>":                       `((NIL NIL "MISSING_MAILBOX" "MISSING_DOMAIN"))`,
		"a@":                       `((NIL NIL "a" "MISSING_DOMAIN"))`,
		"@b":                       `((NIL NIL "MISSING_MAILBOX" "b"))`,
		"=?utf-8?q?=C3=A4?= <a@b>": `(("=?utf-8?q?=C3=A4?=" NIL "a" "b"))`,
		"(only a comment)":         "NIL",
		" \t ":                     "NIL",
		"A\r\n B <a@\r\n b> (c)":   `(("A B" NIL "a" "b"))`,
		"\xc3\xa4 <\xc3\xb6@b>":    "(({2}\r\n\xc3\xa4 NIL {2}\r\n\xc3\xb6 \"b\"))",
		"\"  a \t b \" <a@b>":      `(("a b" NIL "a" "b"))`,
		"a@b <c@d>":                `((NIL NIL "a" "b"))`,
		"a@b c@d, e@f":             `((NIL NIL "a" "b"))`,
	} {
		p := Parse([]byte("To: " + in + "\r\n\r\n"))
		w := wire{}
		w.addresses(p.Envelope.To)
		if got := string(w.dst); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestAppendBodyStructure(t *testing.T) {
	for name, tt := range map[string]struct{ msg, body, structure string }{
		"RFC 9051, text": {
			"Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\r\n\r\n" + strings.Repeat("x\r\n", 92),
			`("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 276 92)`,
			`("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 276 92 NIL NIL NIL NIL)`,
		},
		"no type": {
			"\r\nx",
			`("TEXT" "PLAIN" ("charset" "us-ascii") NIL NIL "7BIT" 1 0)`,
			`("TEXT" "PLAIN" ("charset" "us-ascii") NIL NIL "7BIT" 1 0 NIL NIL NIL NIL)`,
		},
		"all": {
			"Content-Type: application/pdf; name=\"a \\\"b\"\r\nContent-ID: <x>\r\nContent-Description: y\r\n" +
				"Content-Transfer-Encoding: base64\r\nContent-MD5: z\r\nContent-Disposition: attachment; filename*=utf-8''%C3%A4\r\n" +
				"Content-Language: de, en\r\nContent-Location: l\r\n\r\n",
			`("APPLICATION" "PDF" ("name" "a \"b") "<x>" "y" "BASE64" 0)`,
			`("APPLICATION" "PDF" ("name" "a \"b") "<x>" "y" "BASE64" 0 "z" ("attachment" ("filename*" "utf-8''%C3%A4")) ("de" "en") "l")`,
		},
		"multipart": {
			mixed("--b\r\n\r\nx\r\n--b\r\nContent-Type: image/gif\r\nContent-Disposition: inline\r\n\r\n--b--\r\n"),
			`(("TEXT" "PLAIN" ("charset" "us-ascii") NIL NIL "7BIT" 1 0)("IMAGE" "GIF" NIL NIL NIL "7BIT" 0) "MIXED")`,
			`(("TEXT" "PLAIN" ("charset" "us-ascii") NIL NIL "7BIT" 1 0 NIL NIL NIL NIL)` +
				`("IMAGE" "GIF" NIL NIL NIL "7BIT" 0 NIL ("inline" NIL) NIL NIL) "MIXED" ("boundary" "b") NIL NIL NIL)`,
		},
		"message": {
			"Content-Type: message/rfc822\r\n\r\nSubject: s\r\n\r\nx\r\n",
			`("MESSAGE" "RFC822" NIL NIL NIL "7BIT" 17 (NIL "s" NIL NIL NIL NIL NIL NIL NIL NIL) ` +
				`("TEXT" "PLAIN" ("charset" "us-ascii") NIL NIL "7BIT" 3 1) 3)`,
			`("MESSAGE" "RFC822" NIL NIL NIL "7BIT" 17 (NIL "s" NIL NIL NIL NIL NIL NIL NIL NIL) ` +
				`("TEXT" "PLAIN" ("charset" "us-ascii") NIL NIL "7BIT" 3 1 NIL NIL NIL NIL) 3 NIL NIL NIL NIL)`,
		},
		"message/global for an old client": {
			"Content-Type: message/global\r\n\r\nSubject: s\r\n\r\nx\r\n",
			`("MESSAGE" "GLOBAL" NIL NIL NIL "7BIT" 17)`,
			`("MESSAGE" "GLOBAL" NIL NIL NIL "7BIT" 17 NIL NIL NIL NIL)`,
		},
	} {
		p := Parse([]byte(tt.msg))
		if got := string(AppendBodyStructure(nil, p, false, false)); got != tt.body {
			t.Errorf("%s: BODY\n%s, want\n%s", name, got, tt.body)
		}
		if got := string(AppendBodyStructure(nil, p, true, false)); got != tt.structure {
			t.Errorf("%s: BODYSTRUCTURE\n%s, want\n%s", name, got, tt.structure)
		}
	}
	global := Parse([]byte("Content-Type: message/global\r\n\r\nSubject: s\r\n\r\nx\r\n"))
	if got := string(AppendBodyStructure(nil, global, false, true)); !strings.Contains(got, `17 (NIL "s"`) {
		t.Errorf("message/global: %s", got)
	}
}

func TestFields(t *testing.T) {
	const header = "A: 1\r\nb :2\r\n x\r\n\t y\r\nno colon\r\n: z\r\nC:\n\r\nD: body\r\n"
	var got []string
	for f := range Fields([]byte(header)) {
		got = append(got, fmt.Sprintf("%q=%q/%d", f.Name, f.Body, len(f.Raw)))
	}
	want := `"A"=" 1\r\n"/6 "b"="2\r\n x\r\n\t y\r\n"/15 ""=""/10 ""=" z\r\n"/5 "C"="\n"/3`
	if strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	for range Fields([]byte(header)) {
		break // an early end is allowed
	}
	if n := HeaderLen([]byte(header)); n != len(header)-len("D: body\r\n") {
		t.Errorf("HeaderLen %d", n)
	}
}

func TestGet(t *testing.T) {
	header := []byte("Subject: one\r\n\ttwo \r\nsubject: three\r\nX:\r\n\r\nY: body\r\n")
	for name, want := range map[string]string{"SUBJECT": "one\ttwo", "x": "", "y": "none", "Subj": "none"} {
		got, ok := Get(header, name)
		if !ok {
			got = []byte("none")
		}
		if string(got) != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestSelect(t *testing.T) {
	header := []byte("A: 1\r\nB: 2\r\n 3\r\nodd\r\na: 4")
	for _, tt := range []struct {
		names []string
		not   bool
		want  string
	}{
		{[]string{"a"}, false, "A: 1\r\na: 4\r\n\r\n"},
		{[]string{"A", "x"}, true, "B: 2\r\n 3\r\nodd\r\n\r\n"},
		{[]string{"x", ""}, false, "\r\n"},
		{nil, true, "A: 1\r\nB: 2\r\n 3\r\nodd\r\na: 4\r\n\r\n"},
	} {
		if got := string(Select([]byte("-"), header, tt.names, tt.not)); got != "-"+tt.want {
			t.Errorf("%v %v: %q, want %q", tt.names, tt.not, got, tt.want)
		}
	}
}

func TestBinarySize(t *testing.T) {
	p := Parse(plain())
	if n := len(p.AppendBinary(nil)); n >= 300 {
		t.Errorf("the usual message takes %d octets", n)
	}
	for _, row := range [][]byte{nil, {0}, {2, 0, 0, 0, 0, 0}, {1}, {1, 0, 0, 0, 0, 0, 0}, p.AppendBinary(nil)[:40]} {
		if _, err := DecodePart(row); err == nil {
			t.Errorf("%x is decoded", row)
		}
	}
}

// TestBinaryStable has a row as it was written once: the format does not
// change under its number.
func TestBinaryStable(t *testing.T) {
	p := Parse([]byte(mixed("--b\r\nContent-ID: <i>\r\n\r\nx\r\n--b\r\nContent-Type: message/rfc822\r\n" +
		"Content-Disposition: inline; filename*=utf-8''%41\r\nContent-Language: de\r\n\r\nTo: A <a@b>\r\n\r\nhi\r\n--b--\r\n")))
	const want = "018528002da3010d0401000200016200020805130100033c693ec113076911020b06696e6c696e65" +
		"0101040a7574662d382727253431010264658020000f02008001010d014101610162"
	if got := fmt.Sprintf("%x", p.AppendBinary(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

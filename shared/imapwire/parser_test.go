package imapwire

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func parse(text string) *Parser {
	p := new(Parser)
	p.Reset([]byte(text), 0)
	return p
}

func TestParserStrings(t *testing.T) {
	for text, want := range map[string]struct {
		value string
		err   string
	}{
		"abc]\r\n":                     {"abc]", ""},
		`"a b"` + "\r\n":               {"a b", ""},
		`"a\"\\b"` + "\r\n":            {`a"\b`, ""},
		`"grüße"` + "\r\n":             {"grüße", ""},
		`""` + "\r\n":                  {"", ""},
		"{3}\r\na\r\n\r\n":             {"a\r\n", ""},
		"{3+}\r\na\"b\r\n":             {`a"b`, ""},
		"{3}\r\na\x00b\r\n":            {"", "NUL in a literal at octet 8"},
		"{9}\r\nabc\r\n":               {"", "literal is cut short at octet 3"},
		"{9999999999999999999}\r\nabc": {"", "number too large at octet 20"},
		`"a` + "\r\n":                  {"", "quoted string has no end at octet 2"},
		`"a\b"` + "\r\n":               {"", "backslash quotes only itself and the double quote at octet 3"},
		"\"\xff\"\r\n":                 {"", "quoted string is not UTF-8 at octet 0"},
		"\"a\x01b\"\r\n":               {"", "control character in a quoted string at octet 2"},
		"(\r\n":                        {"", "string expected at octet 0"},
		"":                             {"", "string expected at octet 0"},
		"a b\r\n":                      {"a", "end of command expected at octet 1"},
		"a\n":                          {"a", "lines end in CRLF at octet 1"},
		"gr\xc3\xbc\r\n":               {"gr", "end of command expected at octet 2"},
	} {
		p := parse(text)
		got := p.AString()
		err := ""
		if e := p.End(); e != nil {
			err = e.Error()
		}
		if string(got) != want.value || err != want.err {
			t.Errorf("%q: %q, %q; want %q, %q", text, got, err, want.value, want.err)
		}
	}
}

func TestParserBounds(t *testing.T) {
	for name, text := range map[string]string{
		"depth":    strings.Repeat("(", MaxDepth+1) + strings.Repeat(")", MaxDepth+1),
		"elements": "(" + strings.Repeat("a ", MaxElements) + "a)",
	} {
		p := parse(text)
		var item func()
		item = func() {
			if p.Peek() == '(' {
				p.List(item)
				return
			}
			p.Atom()
		}
		item()
		if p.Err() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	p := parse(strings.Repeat("(", MaxDepth) + "a" + strings.Repeat(")", MaxDepth) + "\r\n")
	var item func()
	item = func() {
		if p.Peek() == '(' {
			p.List(item)
			return
		}
		p.Atom()
	}
	item()
	if err := p.End(); err != nil {
		t.Errorf("depth %d: %v", MaxDepth, err)
	}
}

func TestSet(t *testing.T) {
	for text, want := range map[string]struct {
		last uint32
		out  []Range
		err  bool
	}{
		"1":              {10, []Range{{1, 1}}, false},
		"2,4:7,9,12:*":   {15, []Range{{2, 2}, {4, 7}, {9, 9}, {12, 15}}, false},
		"*:4,5:7":        {10, []Range{{4, 10}}, false},
		"7:5,6:8,1":      {10, []Range{{1, 1}, {5, 8}}, false},
		"*":              {0, []Range{}, false},
		"5:*":            {3, []Range{{3, 5}}, false},
		"4294967295,1:2": {3, []Range{{1, 2}, {4294967295, 4294967295}}, false},
		"0":              {3, nil, true},
		"1:":             {3, nil, true},
		",1":             {3, nil, true},
		"4294967296":     {3, nil, true},
		"a":              {3, nil, true},
	} {
		p := parse(text + "\r\n")
		s := p.Set()
		err := p.End()
		if (err != nil) != want.err {
			t.Errorf("%q: error %v", text, err)
			continue
		}
		if err == nil {
			if got := s.Resolve(want.last); !reflect.DeepEqual(got, want.out) {
				t.Errorf("%q: %v, want %v", text, got, want.out)
			}
		}
	}
	if p := parse("$\r\n"); !p.Set().Saved || p.End() != nil {
		t.Error("$ not taken")
	}
	if got := string(AppendSet(nil, []uint32{1, 2, 3, 7, 9, 10, 5})); got != "1:3,7,9:10,5" {
		t.Errorf("AppendSet: %s", got)
	}
	if got := string(AppendRanges(nil, []Range{{1, 2}, {5, 5}})); got != "1:2,5" {
		t.Errorf("AppendRanges: %s", got)
	}
	for n, want := range map[uint32]bool{1: true, 3: true, 4: false, 6: true, 7: false, 0: false} {
		if Contains([]Range{{1, 3}, {5, 6}}, n) != want {
			t.Errorf("Contains(%d) is %v", n, !want)
		}
	}
}

func TestDates(t *testing.T) {
	for text, want := range map[string]string{
		`"17-Jul-1996 02:44:25 -0700"`: "1996-07-17T09:44:25Z",
		`" 1-feb-2024 00:00:00 +0530"`: "2024-01-31T18:30:00Z",
		`"29-Feb-2024 23:59:60 +0000"`: "2024-03-01T00:00:00Z",
		`"29-Feb-2023 00:00:00 +0000"`: "",
		`"17-Xyz-1996 02:44:25 -0700"`: "",
		`"17-Jul-1996 25:44:25 -0700"`: "",
		`"17-Jul-1996 02:44:25"`:       "",
		`17-Jul-1996`:                  "",
	} {
		p := parse(text + "\r\n")
		got := p.DateTime()
		err := p.End()
		if (err != nil) != (want == "") || (err == nil && got.Format(time.RFC3339) != want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if err == nil {
			p := parse(string(AppendDateTime(nil, got.UnixNano())))
			if back := p.DateTime(); !back.Equal(got) || p.Err() != nil {
				t.Errorf("%s: written as something else: %v", text, back)
			}
		}
	}
	for text, want := range map[string]string{"1-Feb-1994": "1994-02-01", `"01-FEB-1994"`: "1994-02-01", "31-Feb-1994": "", "1-Feb-94": ""} {
		p := parse(text + "\r\n")
		got := p.Date()
		if err := p.End(); (err != nil) != (want == "") || (err == nil && got.Format("2006-01-02") != want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if got := string(AppendDateTime(nil, time.Date(2024, 2, 3, 4, 5, 6, 7, time.UTC).UnixNano())); got != `" 3-Feb-2024 04:05:06 +0000"` {
		t.Error(got)
	}
}

func TestUTF7(t *testing.T) {
	for name, want := range map[string]string{
		"INBOX":              "INBOX",
		"Entwürfe":           "Entw&APw-rfe",
		"a&b":                "a&-b",
		"~peter/mail/台北/日本語": "~peter/mail/&U,BTFw-/&ZeVnLIqe-",
		"😀":                  "&2D3eAA-",
		"tab\there":          "tab&AAk-here",
		"":                   "",
	} {
		got := string(AppendUTF7(nil, name))
		if got != want {
			t.Errorf("AppendUTF7(%q) = %q, want %q", name, got, want)
		}
		if back, err := DecodeUTF7(got); err != nil || back != name {
			t.Errorf("DecodeUTF7(%q) = %q, %v", got, back, err)
		}
	}
	for _, bad := range []string{"&", "&AA", "&AGE-", "&2D0-", "&3gA-", "grü", "&AP-", "&APz-", "&U,BT-&Fw-", "&-&AGE-", "a\x00", "&APw=-", "&APwA-"} {
		if got, err := DecodeUTF7(bad); err == nil {
			t.Errorf("DecodeUTF7(%q) = %q, no error", bad, got)
		}
	}
}

func TestAppendStrings(t *testing.T) {
	for s, want := range map[string]string{
		"abc": "abc", "": `""`, "a b": `"a b"`, `a"\`: `"a\"\\"`, "nil": `"nil"`,
		"a\r\nb": "{4}\r\na\r\nb", "grün": "{5}\r\ngrün", "a]": "a]", "%": `"%"`,
	} {
		if got := string(AppendAString(nil, s, false)); got != want {
			t.Errorf("AppendAString(%q) = %q, want %q", s, got, want)
		}
	}
	if got := string(AppendAString(nil, "grün", true)); got != `"grün"` {
		t.Errorf("UTF-8: %q", got)
	}
	if got := string(AppendAString(nil, "\xff", true)); got != "{1}\r\n\xff" {
		t.Errorf("not UTF-8: %q", got)
	}
	if got := string(AppendMailbox(nil, "Entwürfe", false)); got != "Entw&APw-rfe" {
		t.Errorf("mailbox: %q", got)
	}
	if got := string(AppendMailbox(nil, "Entwürfe", true)); got != `"Entwürfe"` {
		t.Errorf("mailbox: %q", got)
	}
	if got := string(AppendNString(nil, nil, false)); got != "NIL" {
		t.Errorf("nil: %q", got)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	dst := make([]byte, 0, 1024)
	name, uids := "Entwürfe/Grüße", []uint32{1, 2, 3, 9}
	if n := testing.AllocsPerRun(100, func() {
		b := AppendMailbox(dst, name, false)
		b = AppendMailbox(b, name, true)
		b = AppendAString(b, "a b", false)
		b = AppendDateTime(b, 1700000000e9)
		b = AppendSet(b, uids)
		AppendNumber(b, 12345)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWriter(t *testing.T) {
	var out, want bytes.Buffer
	w := NewWriter(&out)
	w.Acquire()
	for i := range 400 {
		line := strings.Repeat("x", i*7) + "\r\n"
		w.B = append(w.B, line...)
		want.WriteString(line)
		piece := bytes.Repeat([]byte{byte(i)}, i*i)
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
		want.Write(piece)
		if err := w.Spill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil || !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Fatalf("output differs (%d, %d octets), %v", out.Len(), want.Len(), err)
	}
	w.Release()
	if w.B != nil {
		t.Error("buffer kept")
	}
}

func FuzzParser(f *testing.F) {
	for _, s := range []string{
		"1:*,5 (FLAGS BODY[HEADER.FIELDS (\"a\\\"\")])\r\n", `"17-Jul-1996 02:44:25 -0700"` + "\r\n",
		"{3+}\r\nabc (a (b \"c\") NIL)\r\n", "Entw&APw-rfe\r\n", "\\Seen $x 12345678901234567890\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, call := range []func(p *Parser){
			func(p *Parser) { p.AString() }, func(p *Parser) { p.NString() }, func(p *Parser) { p.ListMailbox() },
			func(p *Parser) { p.Set().Resolve(7) }, func(p *Parser) { p.DateTime() }, func(p *Parser) { p.Date() },
			func(p *Parser) { p.Flag() }, func(p *Parser) { p.Number64() }, func(p *Parser) { p.Until(']') },
			func(p *Parser) {
				var item func()
				item = func() {
					if p.Peek() == '(' {
						p.List(item)
						return
					}
					p.NString()
				}
				item()
			},
		} {
			var p Parser
			p.Reset(bytes.Clone(text), 0)
			call(&p)
			if p.Offset() > len(text) {
				t.Fatalf("offset %d of %d", p.Offset(), len(text))
			}
			p.End()
		}
	})
}

func FuzzUTF7(f *testing.F) {
	for _, s := range []string{"Entw&APw-rfe", "&2D3eAA-", "a&-b", "&U,BTFw-/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := DecodeUTF7(s); err == nil {
			if back := string(AppendUTF7(nil, name)); back != s {
				t.Fatalf("%q decodes to %q, which is written %q", s, name, back)
			}
		}
		if back, err := DecodeUTF7(AppendUTF7(nil, s)); err != nil || back != strings.ToValidUTF8(s, "\uFFFD") && !strings.Contains(back, "\uFFFD") {
			t.Fatalf("%q comes back as %q, %v", s, back, err)
		}
	})
}

package milter

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/message"
)

// TestSplit: what is told as header and what as body is the whole message.
func TestSplit(t *testing.T) {
	for name, tt := range map[string]struct {
		msg    string
		fields []string
		empty  bool
		body   string
	}{
		"usual":            {"A: b\r\nC: d\r\n e\r\n\r\nbody\r\n", []string{"A: b\r\n", "C: d\r\n e\r\n"}, true, "body\r\n"},
		"no body":          {"A: b\r\n\r\n", []string{"A: b\r\n"}, true, ""},
		"no empty line":    {"A: b\r\n", []string{"A: b\r\n"}, false, ""},
		"no header":        {"\r\nbody\r\n", nil, true, "body\r\n"},
		"nothing":          {"", nil, false, ""},
		"no field at all":  {"what is this\r\nA: b\r\n\r\nbody\r\n", nil, false, "what is this\r\nA: b\r\n\r\nbody\r\n"},
		"line without":     {"A: b\r\nnothing\r\nC: d\r\n\r\nbody\r\n", []string{"A: b\r\n"}, false, "nothing\r\nC: d\r\n\r\nbody\r\n"},
		"continues what":   {" A: b\r\n\r\nbody\r\n", nil, false, " A: b\r\n\r\nbody\r\n"},
		"space in line":    {"A: b\r\n \r\nC: d\r\n\r\n", []string{"A: b\r\n \r\n", "C: d\r\n"}, true, ""},
		"space before :":   {"A \t: b\r\n\r\n", []string{"A \t: b\r\n"}, true, ""},
		"two words":        {"A b: c\r\n\r\n", nil, false, "A b: c\r\n\r\n"},
		"no line end":      {"A: b", []string{"A: b"}, false, ""},
		"empty value":      {"A:\r\n\r\n", []string{"A:\r\n"}, true, ""},
		"nothing before :": {": b\r\n\r\n", nil, false, ": b\r\n\r\n"},
	} {
		p := split([]byte(tt.msg))
		var fields []string
		for _, f := range p.fields {
			fields = append(fields, string(f.raw))
		}
		if !slices.Equal(fields, tt.fields) || p.empty != tt.empty || string(p.body) != tt.body {
			t.Errorf("%s: %q %v %q, want %q %v %q", name, fields, p.empty, p.body, tt.fields, tt.empty, tt.body)
		}
	}
}

// TestValue: how filters see what stands behind the colon.
func TestValue(t *testing.T) {
	for raw, want := range map[string][2]string{ // without SMFIP_HDR_LEADSPC and with
		"A: b\r\n":          {"b", " b"},
		"A:  b\r\n":         {" b", "  b"},
		"A:\tb\r\n":         {"\tb", "\tb"},
		"A:b\r\n":           {"b", "b"},
		"A:\r\n":            {"", ""},
		"A: \r\n":           {"", " "},
		"A: b\r\n\tc\r\n\r": {"b\n\tc\n\r", " b\n\tc\n\r"},
		"A : b:c \r\n":      {"b:c ", " b:c "},
		"A:\r\n b\r\n":      {"\n b", "\n b"},
	} {
		f := field{raw: []byte(raw)}
		if got := [2]string{string(f.value(false)), string(f.value(true))}; got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
}

func TestApply(t *testing.T) {
	const msg = "Received: one\r\nReceived: two\r\nSubject: s\r\n\tt\r\nreceived: three\r\n\r\nbody\r\n"
	add := func(name, value string) edit { return edit{code: respAddHeader, name: name, value: value} }
	ins := func(i uint32, name, value string) edit { return edit{respInsHeader, i, name, value} }
	chg := func(i uint32, name, value string) edit { return edit{respChgHeader, i, name, value} }
	for name, tt := range map[string]struct {
		msg   string
		edits []edit
		body  string // "-" is empty
		lead  bool
		want  string
		notes string
		left  int
	}{
		"nothing":                  {msg, nil, "", false, "", "", 0},
		"added":                    {msg, []edit{add("X", "1"), add("X", "2")}, "", false, "Received: one\r\nReceived: two\r\nSubject: s\r\n\tt\r\nreceived: three\r\nX: 1\r\nX: 2\r\n\r\nbody\r\n", "X added, X added", 0},
		"own space":                {msg, []edit{add("X", "1"), chg(1, "subject", "  u")}, "", true, "Received: one\r\nReceived: two\r\nsubject:  u\r\nreceived: three\r\nX:1\r\n\r\nbody\r\n", "X added, subject changed", 0},
		"on top":                   {msg, []edit{ins(0, "X", "1"), ins(1, "Y", "2")}, "", false, "X: 1\r\nY: 2\r\n" + msg, "X added, Y added", 0},
		"on top again":             {msg, []edit{ins(0, "X", "1"), ins(0, "Y", "2"), ins(3, "Z", "3")}, "", false, "Y: 2\r\nX: 1\r\nZ: 3\r\n" + msg, "X added, Y added, Z added", 0},
		"in between":               {msg, []edit{ins(3, "X", "1")}, "", false, "Received: one\r\nReceived: two\r\nX: 1\r\nSubject: s\r\n\tt\r\nreceived: three\r\n\r\nbody\r\n", "X added", 0},
		"beyond":                   {msg, []edit{ins(4e9, "X", "1")}, "", false, "Received: one\r\nReceived: two\r\nSubject: s\r\n\tt\r\nreceived: three\r\nX: 1\r\n\r\nbody\r\n", "X added", 0},
		"third":                    {msg, []edit{chg(3, "RECEIVED", "3")}, "", false, "Received: one\r\nReceived: two\r\nSubject: s\r\n\tt\r\nRECEIVED: 3\r\n\r\nbody\r\n", "RECEIVED changed", 0},
		"removed, then the second": {msg, []edit{chg(1, "Received", ""), chg(2, "Received", "3")}, "", false, "Received: two\r\nSubject: s\r\n\tt\r\nReceived: 3\r\n\r\nbody\r\n", "Received removed, Received changed", 0},
		"index 0 is the first":     {msg, []edit{chg(0, "Received", "1")}, "", false, "Received: 1\r\nReceived: two\r\nSubject: s\r\n\tt\r\nreceived: three\r\n\r\nbody\r\n", "Received changed", 0},
		"not there":                {msg, []edit{chg(4, "Received", "4")}, "", false, "Received: one\r\nReceived: two\r\nSubject: s\r\n\tt\r\nreceived: three\r\nReceived: 4\r\n\r\nbody\r\n", "Received added", 0},
		"not there, removed":       {msg, []edit{chg(4, "Received", "")}, "", false, "", "", 0},
		"all removed":              {"A: b\r\n\r\nbody\r\n", []edit{chg(1, "A", "")}, "", false, "\r\nbody\r\n", "A removed", 0},
		"lines":                    {"A: b\r\n\r\n", []edit{add("X", "1\n2\r\n\t3\r4\n\n \n5\n")}, "", false, "A: b\r\nX: 1\r\n\t2\r\n\t3\r\n\t4\r\n\t5\r\n\r\n", "X added", 0},
		"an end of the header":     {"A: b\r\n\r\n", []edit{add("X", "1\r\n\r\nbody")}, "", false, "A: b\r\nX: 1\r\n\tbody\r\n\r\n", "X added", 0},
		"no name":                  {msg, []edit{add("X Y", "1"), add("", "1"), add("X:", "1"), add("X\r\nY", "1"), add("Ü", "1")}, "", false, "", "", 5},
		"one of two":               {"A: b\r\n\r\n", []edit{add("X\n", "1"), add("Y", "1")}, "", false, "A: b\r\nY: 1\r\n\r\n", "Y added", 1},
		"body":                     {msg, nil, "a\nb\rc\r\nd", false, "Received: one\r\nReceived: two\r\nSubject: s\r\n\tt\r\nreceived: three\r\n\r\na\r\nb\r\nc\r\nd\r\n", "body replaced", 0},
		"no body any more":         {"A: b\r\n\r\nbody\r\n", nil, "-", false, "A: b\r\n\r\n", "body replaced", 0},
		"a body for none":          {"A: b\r\n", nil, "c", false, "A: b\r\n\r\nc\r\n", "body replaced", 0},
		"header only":              {"A: b\r\n", []edit{add("X", "1")}, "", false, "A: b\r\nX: 1\r\n", "X added", 0},
		"body only":                {"\r\nbody\r\n", []edit{add("X", "1")}, "", false, "X: 1\r\n\r\nbody\r\n", "X added", 0},
		"no header":                {"what is this\r\n", []edit{ins(0, "X", "1")}, "", false, "X: 1\r\n\r\nwhat is this\r\n", "X added", 0},
		"a header that ends badly": {"A: b\r\nwhat is this\r\n", []edit{add("X", "1")}, "", false, "A: b\r\nX: 1\r\n\r\nwhat is this\r\n", "X added", 0},
		"empty":                    {"", []edit{add("X", "1")}, "", false, "X: 1\r\n", "X added", 0},
		"no last line end":         {"A: b", []edit{add("X", "1")}, "", false, "A: b\r\nX: 1\r\n", "X added", 0},
	} {
		before := tt.msg
		e := edits{header: tt.edits, body: []byte(tt.body), newBody: tt.body != ""}
		if tt.body == "-" {
			e.body = nil
		}
		left := 0
		msg, notes, err := e.apply(split([]byte(tt.msg)), tt.lead, func(string) { left++ })
		if string(msg) != tt.want || err != nil || strings.Join(notes, ", ") != tt.notes || left != tt.left {
			t.Errorf("%s:\n%q %q %d %v, want\n%q %q %d", name, msg, notes, left, err, tt.want, tt.notes, tt.left)
		}
		if tt.msg != before {
			t.Errorf("%s: the message itself was changed", name)
		}
	}
	for name, e := range map[string]edits{
		"NUL":            {body: []byte("a\x00b"), newBody: true},
		"endless header": {header: []edit{add("X", strings.Repeat("x", message.MaxHeader))}},
	} {
		if msg, _, err := e.apply(split([]byte(msg)), false, func(string) {}); msg != nil || err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzApply: whatever is changed in whatever message, it is one.
func FuzzApply(f *testing.F) {
	f.Add("A: b\r\n\r\nbody\r\n", []byte("h\x00X\x00yes\n\nno\x00m\x01a\x00\x00i\x02Y\x00z\x00"), "", false, false)
	f.Add("A: b\r\nno field\r\n", []byte("i\x00X\x00\x00"), "new\nbody\rx", true, true)
	f.Add(" A\r\n\r\n", []byte("m\x00 \x00:\x00"), "", true, false)
	f.Fuzz(func(t *testing.T, text string, script []byte, body string, newBody, lead bool) {
		text = strings.ReplaceAll(lines.Replace(text), "\n", "\r\n") // what comes in is strict
		e := edits{body: []byte(body), newBody: newBody}
		for len(script) > 2 && len(e.header) < 100 {
			c := edit{code: "him"[int(script[0])%3], index: uint32(script[1])}
			var ok bool
			if c.name, script, ok = cutString(script[2:]); !ok {
				break
			}
			if c.value, script, ok = cutString(script); !ok {
				break
			}
			e.header = append(e.header, c)
		}
		before := []byte(text)
		p := split(before)
		if whole := joined(p); whole != text {
			t.Fatalf("the parts of %q are %q", text, whole)
		}
		msg, notes, err := e.apply(p, lead, func(string) {})
		if string(before) != text {
			t.Fatal("the message itself was changed")
		}
		switch {
		case err != nil:
			if !strings.Contains(body, "\x00") && len(text) < message.MaxHeader/2 && len(script) < message.MaxHeader/4 {
				t.Fatal(err)
			}
			return
		case msg == nil:
			if newBody || len(notes) > 0 {
				t.Fatal("changed, but no message")
			}
			return
		}
		if bytes.IndexByte(msg, 0) >= 0 {
			t.Fatal("NUL")
		}
		rest := strings.ReplaceAll(string(msg), "\r\n", "")
		if strings.ContainsAny(rest, "\r\n") {
			t.Fatalf("bare line ends in %q", msg)
		}
		// The fields are those that were, or whole ones that were asked for, and
		// the body is one of the two.
		q := split(msg)
		for _, f := range q.fields {
			old := slices.ContainsFunc(p.fields, func(o field) bool {
				return bytes.Equal(bytes.TrimSuffix(o.raw, crlf), bytes.TrimSuffix(f.raw, crlf))
			})
			asked := slices.ContainsFunc(e.header, func(c edit) bool { return bytes.Equal(c.field(lead).raw, f.raw) })
			if !old && !asked {
				t.Fatalf("%q came from nowhere", f.raw)
			}
		}
		if want := len(p.fields); len(e.header) == 0 && len(q.fields) != want {
			t.Fatalf("%d fields, want %d", len(q.fields), want)
		}
		want := p.body
		if newBody {
			want, _ = strict([]byte(body))
		}
		if !bytes.Equal(q.body, want) {
			t.Fatalf("body %q, want %q", q.body, want)
		}
	})
}

func joined(p parts) string {
	var b strings.Builder
	for _, f := range p.fields {
		b.Write(f.raw)
	}
	if p.empty {
		b.WriteString("\r\n")
	}
	b.Write(p.body)
	return b.String()
}

func TestReply(t *testing.T) {
	for data, want := range map[string]string{
		"550 5.7.9 text\x00": "550 5.7.9 text",
		"550 text\x00":       "550 text",
		"450 4.7.1 a\x00":    "450 4.7.1 a",
		"550-5.7.9 a\r\n550-5.7.9 b\r\n550 5.7.9 c\x00": "550 5.7.9 a / b / c",
		"550-a\n550 b\x00":                 "550 a / b",
		"421 4.3.2 go\x00":                 "421 4.3.2 go",
		"550 5.7.9 a\x07b\x1b[31m\xff\x00": "550 5.7.9 a?b?[31m?",
		"550 5.7.9 10%% 5%x %\x00":         "550 5.7.9 10% 5x ",
		"554 5.7.1 \x00":                   "554 5.7.1 Command rejected",
		"450\x00":                          "450 Service unavailable - try again later",
		// What is no reply is the usual one of its class.
		"550 4.7.1 a\x00":                "550 5.7.1 Command rejected",
		"4xx no\x00":                     "451 4.7.1 Service unavailable - try again later",
		"5\x00":                          "550 5.7.1 Command rejected",
		"550-5.7.9 a\x00":                "550 5.7.1 Command rejected",
		"550-5.7.9 a\r\n551 5.7.9 b\x00": "550 5.7.1 Command rejected",
		"550 5.7.9 a\r\n250 OK\x00":      "550 5.7.1 Command rejected",
		"5500 a\x00":                     "550 5.7.1 Command rejected",
		// What has no class is none.
		"250 2.0.0 fine\x00": "", "": "", "\x00": "", "550 no end": "", "354 go\x00": "",
	} {
		r, err := parseReply([]byte(data))
		got := ""
		if err == nil {
			got = r.Error()
		}
		if got != want {
			t.Errorf("%q: %q %v, want %q", data, got, err, want)
		}
	}
}

func TestAddress(t *testing.T) {
	for s, want := range map[string]string{
		"unix:/run/f.sock":    "unix /run/f.sock",
		"local:/run/f.sock":   "unix /run/f.sock",
		"inet:localhost:8891": "tcp localhost:8891",
		"inet:8891@localhost": "tcp localhost:8891",
		"inet:[::1]:8891":     "tcp [::1]:8891",
		"inet6:8891@::1":      "tcp6 [::1]:8891",
		"inet6:8891@[::1]":    "tcp6 [::1]:8891",
		"inet6:[::1]:8891":    "tcp6 [::1]:8891",
		"unix:f.sock":         "",
		"unix:":               "",
		"inet:8891":           "",
		"inet:host:smtp":      "",
		"inet:host:0":         "",
		"inet:host:65536":     "",
		"inet::8891":          "",
		"inet:8891@":          "",
		"inet:::1:8891":       "",
		"tcp:host:8891":       "",
		"":                    "",
		"/run/f.sock":         "",
	} {
		network, addr, err := parseAddress(s)
		got := network + " " + addr
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%s: %q %v, want %q", s, got, err, want)
		}
	}
	for name, cfg := range map[string]Config{
		"no name":    {Address: "unix:/a"},
		"no address": {Name: "f"},
		"no action":  {Name: "f", Address: "unix:/a", OnFailure: "drop"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

package imapwire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReaderCommand(t *testing.T) {
	const input = "a1 LOGIN {5}\r\nalice {6+}\r\nsecret\r\na2 NOOP\r\n"
	for name, src := range map[string]io.Reader{
		"at once":   strings.NewReader(input),
		"by octets": iotest.OneByteReader(strings.NewReader(input)),
		"with EOF":  iotest.DataErrReader(strings.NewReader(input)),
	} {
		r := NewReader(src, 0, 0)
		c, err := r.ReadCommand()
		if err != nil || string(c.Tag) != "a1" || string(c.Verb) != "LOGIN" || c.UID ||
			!c.HasLit || c.Literal != (Literal{Size: 5}) {
			t.Fatalf("%s: first line: %+v, %v", name, c, err)
		}
		if err := r.Inline(5); err != nil {
			t.Fatal(err)
		}
		line, err := r.Line()
		lit, ok := CommandLiteral(line)
		if err != nil || !ok || lit != (Literal{Size: 6, NonSync: true}) {
			t.Fatalf("%s: second line %q: %+v, %v", name, line, lit, err)
		}
		if err := r.Inline(6); err != nil {
			t.Fatal(err)
		}
		if line, err = r.Line(); err != nil || string(line) != "\r\n" {
			t.Fatalf("%s: third line %q, %v", name, line, err)
		}
		if got, want := string(r.Text()), input[:len(input)-len("a2 NOOP\r\n")]; got != want {
			t.Errorf("%s: text %q, want %q", name, got, want)
		}
		if c, err = r.ReadCommand(); err != nil || string(c.Tag) != "a2" || string(c.Verb) != "NOOP" {
			t.Errorf("%s: second command %+v, %v", name, c, err)
		}
		if _, err = r.ReadCommand(); err != io.EOF {
			t.Errorf("%s: end: %v, want EOF", name, err)
		}
	}
}

func TestReaderTakesLiteralOut(t *testing.T) {
	body := strings.Repeat("0123456789", 30000)
	input := "a APPEND x {300000}\r\n" + body + " {3}\r\nabc\r\nb NOOP\r\n"
	for name, src := range map[string]io.Reader{
		"at once":    strings.NewReader(input),
		"by halves":  iotest.HalfReader(strings.NewReader(input)),
		"by octets":  iotest.OneByteReader(strings.NewReader(input)),
		"end is eof": iotest.DataErrReader(strings.NewReader(input)),
	} {
		r := NewReader(src, 0, 0)
		c, err := r.ReadCommand()
		if err != nil || c.Literal.Size != 300000 {
			t.Fatalf("%s: %+v, %v", name, c, err)
		}
		got := make([]byte, 300000)
		if err := r.ReadFull(got); err != nil || string(got) != body {
			t.Fatalf("%s: literal differs, %v", name, err)
		}
		p, err := r.Rest()
		if err != nil || string(p.Bytes) != " {3}\r\n" || p.Literal.Size != 3 {
			t.Fatalf("%s: rest %+v, %v", name, p, err)
		}
		if err := r.Discard(3); err != nil {
			t.Fatal(err)
		}
		if p, err = r.Rest(); err != nil || string(p.Bytes) != "\r\n" || p.HasLit {
			t.Fatalf("%s: rest %+v, %v", name, p, err)
		}
		if c, err = r.ReadCommand(); err != nil || string(c.Tag) != "b" {
			t.Fatalf("%s: next %+v, %v", name, c, err)
		}
		if len(r.buf) != BufferSize {
			t.Errorf("%s: buffer of %d after a long literal", name, len(r.buf))
		}
	}
}

func TestLineTooLong(t *testing.T) {
	long := "a1 FETCH " + strings.Repeat("1,", 1000)
	for name, tt := range map[string]struct {
		input string
		bound int64
		lit   Literal
		hasLit,
		lost bool
	}{
		"plain":        {long + "1 FLAGS\r\nb NOOP\r\n", 1 << 20, Literal{}, false, false},
		"with literal": {long + "{7+}\r\nb NOOP\r\n", 1 << 20, Literal{Size: 7, NonSync: true}, true, false},
		"endless":      {strings.Repeat("a", 1<<20), 1 << 10, Literal{}, false, true},
	} {
		for _, src := range []io.Reader{strings.NewReader(tt.input), iotest.OneByteReader(strings.NewReader(tt.input))} {
			r := NewReader(src, 256, 1000)
			r.Begin()
			head, err := r.Line()
			if !errors.Is(err, ErrLineTooLong) || len(head) < 10 {
				t.Fatalf("%s: %q, %v", name, head, err)
			}
			lit, ok, err := r.SkipLine(tt.bound)
			if tt.lost {
				if !errors.Is(err, ErrLineTooLong) {
					t.Errorf("%s: skip: %v", name, err)
				}
				continue
			}
			if err != nil || ok != tt.hasLit || lit != tt.lit {
				t.Fatalf("%s: skip: %+v %v %v", name, lit, ok, err)
			}
			if c, err := r.ReadCommand(); err != nil || string(c.Tag) != "b" {
				t.Errorf("%s: next command %+v, %v", name, c, err)
			}
		}
	}
}

func TestWaitHoldsNoBuffer(t *testing.T) {
	pr, pw := io.Pipe()
	r := NewReader(pr, 0, 0)
	go func() { pw.Write([]byte("DONE\r\na NOOP\r\nand more than sixteen octets\r\n")) }()
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"DONE\r\n", "a NOOP\r\n", "and more than sixteen octets\r\n"} {
		if line, err := r.Line(); err != nil || string(line) != want {
			t.Fatalf("line %q, %v, want %q", line, err, want)
		}
		r.Begin()
	}
	r.Release()
	if r.buf != nil {
		t.Error("buffer kept after Release")
	}
}

func TestParseLiteral(t *testing.T) {
	for line, want := range map[string]*Literal{
		"a {0}\r\n":                       {},
		"a {12}\r\n":                      {Size: 12},
		"a {12+}\r\n":                     {Size: 12, NonSync: true},
		"a ~{12}\r\n":                     {Size: 12, Binary: true},
		"a UTF8 (~{007+}\r\n":             {Size: 7, NonSync: true, Binary: true},
		"a {99999999999999999999999}\r\n": {Size: 1<<63 - 1},
		"a {12}\n":                        nil,
		"a {12} \r\n":                     nil,
		"a {-1}\r\n":                      nil,
		"a {}\r\n":                        nil,
		"a {+}\r\n":                       nil,
		"12}\r\n":                         nil,
		"}\r\n":                           nil,
		"a {1++}\r\n":                     nil,
		"a {1-}\r\n":                      nil,
		`a "b {5}` + "\r\n":               nil,
		`a "b" {5}` + "\r\n":              {Size: 5},
		`a "b\"" {5}` + "\r\n":            {Size: 5},
		`a "b\" {5}` + "\r\n":             nil,
	} {
		got, ok := CommandLiteral([]byte(line))
		if ok != (want != nil) || (want != nil && got != *want) {
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
	}
}

func TestReadResponse(t *testing.T) {
	long := "* SEARCH" + strings.Repeat(" 123456", 5000) + "\r\n"
	input := "* OK [X] ready {5}\r\n" +
		"* 12 FETCH (UID 3 BODY[] {5}\r\nhello FLAGS ())\r\n" +
		"+ go on {3}\r\n" +
		long +
		"* LIST () \"/\" {3}\r\na b\r\n" +
		"a1 OK done {7}\r\n"
	type item struct {
		kind ResponseKind
		name string
		num  uint32
		raw  string
	}
	want := []item{
		{Untagged, "OK", 0, "* OK [X] ready {5}\r\n"},
		{Untagged, "FETCH", 12, "* 12 FETCH (UID 3 BODY[] {5}\r\nhello FLAGS ())\r\n"},
		{Continuation, "", 0, "+ go on {3}\r\n"},
		{Untagged, "SEARCH", 0, long},
		{Untagged, "LIST", 0, "* LIST () \"/\" {3}\r\na b\r\n"},
		{Tagged, "OK", 0, "a1 OK done {7}\r\n"},
	}
	for name, src := range map[string]io.Reader{
		"at once":   strings.NewReader(input),
		"by octets": iotest.OneByteReader(strings.NewReader(input)),
	} {
		r := NewReader(src, 256, 0)
		for _, w := range want {
			var raw bytes.Buffer
			resp, err := r.ReadResponse()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got := item{resp.Kind, string(resp.Name), resp.Num, ""}
			p, status := resp.Piece, resp.IsStatus()
			for {
				raw.Write(p.Bytes)
				if !p.More && !p.HasLit {
					break
				}
				for n := p.Literal.Size; n > 0; {
					b, err := r.Next(n)
					if err != nil {
						t.Fatal(err)
					}
					raw.Write(b)
					n -= int64(len(b))
				}
				if p, err = r.RestOfResponse(status); err != nil {
					t.Fatal(err)
				}
			}
			got.raw = raw.String()
			if got != w {
				t.Errorf("%s: got %+.80v, want %+.80v", name, got, w)
			}
		}
		if len(r.buf) > 256 {
			t.Errorf("%s: buffer grew to %d", name, len(r.buf))
		}
	}
}

func TestSplitCommand(t *testing.T) {
	for line, want := range map[string]struct {
		tag, verb string
		uid, ok   bool
	}{
		"a1 NOOP\r\n":            {"a1", "NOOP", false, true},
		"a1 uid fetch 1 (X)\r\n": {"a1", "fetch", true, true},
		"a1 UIDX\r\n":            {"a1", "UIDX", false, true},
		"a1 UID\r\n":             {"a1", "UID", false, true},
		"a1\r\n":                 {"", "", false, false},
		"a1 \r\n":                {"a1", "", false, false},
		" NOOP\r\n":              {"", "", false, false},
		"+ NOOP\r\n":             {"", "", false, false},
		"* NOOP\r\n":             {"", "", false, false},
		"a1 NO\x00OP\r\n":        {"a1", "", false, false},
		"a1 NOOP\n":              {"a1", "", false, false},
		"\r\n":                   {"", "", false, false},
	} {
		tag, verb, uid, _, ok := SplitCommand([]byte(line))
		if string(tag) != want.tag || ok != want.ok || (ok && (string(verb) != want.verb || uid != want.uid)) {
			t.Errorf("%q: %q %q %v %v", line, tag, verb, uid, ok)
		}
	}
}

// FuzzReader checks that the framing of a peer's octets does not depend on how
// they arrive, and that every octet is framed once.
func FuzzReader(f *testing.F) {
	f.Add([]byte("a1 LOGIN {5}\r\nalice {6+}\r\nsecret\r\na2 NOOP\r\n"), false)
	f.Add([]byte("* 12 FETCH (BODY[] {5}\r\nhello)\r\na OK x\r\n"), true)
	f.Add([]byte("a SEARCH SUBJECT \"x {5}\r\nb NOOP\r\n"), false)
	f.Fuzz(func(t *testing.T, input []byte, server bool) {
		whole := frame(bytes.NewReader(input), server)
		single := frame(iotest.OneByteReader(bytes.NewReader(input)), server)
		if !bytes.Equal(whole, single) {
			t.Fatalf("framing depends on arrival:\n%q\n%q", whole, single)
		}
	})
}

// frame prints every line and literal that src holds, until an error.
func frame(src io.Reader, server bool) []byte {
	var out []byte
	r := NewReader(src, 128, 512)
	for {
		var p Piece
		var err error
		status := false
		if server {
			var resp Response
			resp, err = r.ReadResponse()
			p, status = resp.Piece, resp.IsStatus()
		} else {
			var c Command
			c, err = r.ReadCommand()
			p = c.Piece
		}
		begin := len(out)
		out = append(out, '<')
		for {
			if err != nil && err != ErrSyntax {
				return append(out[:begin], err.Error()...)
			}
			out = append(out, p.Bytes...)
			if !p.HasLit && !p.More {
				break
			}
			if p.HasLit {
				out = append(out, '[')
				for n := p.Literal.Size; n > 0; {
					b, err := r.Next(n)
					if err != nil {
						return append(out[:begin], err.Error()...)
					}
					out = append(out, b...)
					n -= int64(len(b))
				}
				out = append(out, ']')
			}
			if server {
				p, err = r.RestOfResponse(status)
			} else {
				p, err = r.Rest()
			}
		}
		out = append(out, '>')
	}
}

package message

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	gomessage "github.com/emersion/go-message"
)

// shape prints the tree of a message: types, header and body spans, lines.
func shape(p *Part) string {
	var b strings.Builder
	var walk func(p *Part)
	walk = func(p *Part) {
		fmt.Fprintf(&b, "%s/%s[%d+%d,%d+%d,%d]", p.Type, p.Subtype, p.Header.Off, p.Header.Len, p.Body.Off, p.Body.Len, p.Lines)
		if p.Message != nil {
			b.WriteString("<")
			walk(p.Message)
			b.WriteString(">")
		}
		for i, c := range p.Children {
			b.WriteString(" {"[min(1, i^1) : min(1, i^1)+1])
			walk(c)
		}
		if len(p.Children) > 0 {
			b.WriteString("}")
		}
	}
	walk(p)
	return strings.NewReplacer("TEXT/PLAIN", "T", "MULTIPART/MIXED", "M", "MESSAGE/RFC822", "R").Replace(b.String())
}

func TestParseShape(t *testing.T) {
	for name, tt := range map[string]struct{ msg, want string }{
		"nothing":          {"", "T[0+0,0+0,0]"},
		"body only":        {"\r\nhi\r\n", "T[0+2,2+4,1]"},
		"header only":      {"A: b\r\n", "T[0+6,6+0,0]"},
		"header no end":    {"A: b", "T[0+4,4+0,0]"},
		"LF":               {"A: b\n\nhi\nho", "T[0+6,6+5,1]"},
		"no MIME":          {"Content-ID: x\r\nContent-Transfer-Encoding: base64\r\n\r\nx", "T[0+52,52+1,0]"},
		"bad type":         {"Content-Type: text\r\n\r\nx", "T[0+22,22+1,0]"},
		"bad type 2":       {"Content-Type: ;\r\n\r\nx", "T[0+19,19+1,0]"},
		"upper case":       {"content-TYPE : Text/Html\r\n\r\nx", "TEXT/HTML[0+28,28+1,0]"},
		"first type":       {"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", "A/B[0+40,40+0,0]"},
		"two parts":        {mixed("--b\r\n\r\none\r\n--b\r\nA: b\r\n\r\ntwo\r\n--b--\r\n"), "M[0+45,45+37,8]{T[50+2,52+3,0] T[62+8,70+3,0]}"},
		"preamble":         {mixed("pre\r\n--b\r\n\r\none\r\n--b--\r\npost"), "M[0+45,45+28,5]{T[55+2,57+3,0]}"},
		"not closed":       {mixed("--b\r\n\r\none\r\ntwo"), "M[0+45,45+15,3]{T[50+2,52+8,1]}"},
		"no boundary":      {"Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\n", "M[0+33,33+7,2]{T[40+0,40+0,0]}"},
		"boundary missing": {mixed("text\r\n"), "M[0+45,45+6,1]{T[51+0,51+0,0]}"},
		"delimiter at end": {mixed("--b\r\n\r\none\r\n--b"), "M[0+45,45+15,3]{T[50+2,52+3,0]}"},
		"empty last part":  {mixed("--b\r\n\r\none\r\n--b\r\n"), "M[0+45,45+17,4]{T[50+2,52+3,0] T[62+0,62+0,0]}"},
		"no empty line":    {mixed("--b\r\nA: b\r\n--b--"), "M[0+45,45+16,2]{T[50+4,54+0,0]}"},
		"no body":          {mixed("--b\r\nA: b\r\n\r\n--b--"), "M[0+45,45+18,3]{T[50+6,56+0,0]}"},
		"prefix":           {mixed("--bcd\r\n\r\none\r\n--b --\r\n"), "M[0+45,45+22,4]{T[52+2,54+3,0] T[67+0,67+0,0]}"},
		"not line start":   {mixed("--b\r\n\r\none --b\r\n--b--\r\n"), "M[0+45,45+23,4]{T[50+2,52+7,0]}"},
		"message": {
			mixed("--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\nhi\r\n\r\n--b--\r\n"),
			"M[0+45,45+64,8]{R[50+32,82+18,3]<T[82+14,96+4,1]>}",
		},
		"empty message": {
			mixed("--b\r\nContent-Type: message/rfc822\r\n\r\n--b--\r\n"),
			"M[0+45,45+44,4]{R[50+30,80+0,0]<T[80+0,80+0,0]>}",
		},
		"digest": {
			strings.Replace(mixed("--b\r\n\r\nSubject: x\r\n\r\nhi\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--"), "mixed", "digest", 1),
			"MULTIPART/DIGEST[0+46,46+66,9]{R[51+2,53+16,2]<T[53+14,67+2,0]> T[76+28,104+1,0]}",
		},
		"outer delimiter ends inner": {
			mixed("--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--"),
			"M[0+45,45+79,9]{M[50+45,95+10,2]{T[100+2,102+3,0]} T[112+2,114+3,0]}",
		},
	} {
		p := Parse([]byte(tt.msg))
		if got := shape(p); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		checkPart(t, []byte(tt.msg), p)
	}
}

// mixed is a message of parts with the boundary b.
func mixed(body string) string {
	return "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + body
}

func TestParseContent(t *testing.T) {
	msg := "MIME-Version: 1.0\r\n" +
		"Content-Type: text/HTML (c); Charset=\"utf-8\"; x=a b; y=\r\n" +
		" \"q\\\"r\"; n*0*=utf-8''a%20b; n*1=c%; bad; m*1=x; f==?utf-8?q?f?=; z*=us-ascii'en'%41\r\n" +
		"Content-Transfer-Encoding: Quoted-Printable (really)\r\n" +
		"Content-ID: <a@b>\r\nContent-Description: a\r\n\tb \r\nContent-MD5: Q2hlY2s=\r\n" +
		"Content-Disposition: Attachment; filename=x.txt\r\n" +
		"Content-Language: de, en-GB (x), fr;\r\nContent-Location: http://x\r\n\r\n"
	p := Parse([]byte(msg))
	p.Envelope, p.Header, p.Body = nil, Span{}, Span{}
	want := &Part{
		Type: "TEXT", Subtype: "HTML",
		Params: []Param{
			{Name: "Charset", Value: "utf-8"},
			{Name: "x", Value: "a"},
			{Name: "y", Value: `q"r`},
			{Name: "f", Value: "=?utf-8?q?f?="},
			{Name: "m*1", Value: "x"},
			{Name: "n", Value: "a bc%", Extended: "utf-8''a%20bc%25"},
			{Name: "z", Value: "A", Extended: "us-ascii'en'%41"},
		},
		ID: "<a@b>", Description: "a\tb ", Encoding: "QUOTED-PRINTABLE", MD5: "Q2hlY2s=",
		Disposition: "Attachment", DispParams: []Param{{Name: "filename", Value: "x.txt"}},
		Language: []string{"de", "en-GB", "fr"}, Location: "http://x",
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, want %+v", p, want)
	}
}

// TestParseHostile gives messages made to be expensive. Time is bounded
// generously: what is meant to fail is the square of something.
func TestParseHostile(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	many := func(n int, s string) string { return strings.Repeat(s, n) }
	for name, msg := range map[string]string{
		"5,000 deep":        string(nestedMessage(5000)),
		"5,000 messages":    many(5000, "Content-Type: message/rfc822\r\n\r\n"),
		"100,000 parts":     mixed(many(100_000, "--b\r\n\r\nx\r\n")),
		"endless header":    many(400_000, "A: b\r\n"),
		"endless line":      "A: " + many(1<<20, "b"),
		"endless fold":      "Subject: a\r\n" + many(400_000, " b\r\n"),
		"parameters":        "Content-Type: a/b" + many(10_000, "; a=b") + "\r\n\r\n",
		"continuations":     "Content-Type: a/b" + many(10_000, "; a*0*=b") + "\r\n\r\n",
		"broken parameters": "Content-Type: a/b" + many(50_000, "; =") + "\r\n\r\n",
		"addresses":         "To: " + many(100_000, "a,") + "\r\n\r\n",
		"groups":            "To: " + many(60_000, "a:") + "\r\n\r\n",
		"comments":          "To: " + many(100_000, "(") + "\r\n\r\n",
		"quotes":            "To: " + many(60_000, "\"a\", \"") + "\r\n\r\n",
		"repeated":          many(30_000, "Cc: a@b\r\n") + "\r\n",
		"dashes":            mixed(many(1<<20, "-")),
		"almost delimiters": mixed(many(300_000, "--\r\n")),
		"equal boundaries":  many(99, "Content-Type: multipart/mixed; boundary="+many(80, "x")+"\r\n\r\n--"+many(80, "x")+"\r\n") + many(20_000, "--"+many(79, "x")+"\r\n"),
		"NUL":               "Subject: " + many(100_000, "\x00") + "\r\n\r\n",
	} {
		start := cpuTime()
		p := Parse([]byte(msg))
		if d := cpuTime() - start; d > time.Second {
			t.Errorf("%s: %v for %d octets", name, d, len(msg))
		}
		checkPart(t, []byte(msg), p)
	}
}

// TestParseDeep: four times the levels take about four times as long, not the
// sixteen of a square, and 5,000 a tenth of a second at most, which is asked without
// the race detector: that takes ten times as long.
func TestParseDeep(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for name, deep := range map[string]func(n int) []byte{
		"multiparts": nestedMessage,
		"messages":   func(n int) []byte { return bytes.Repeat([]byte("Content-Type: message/rfc822\r\n\r\n"), n) },
	} {
		best := func(n int) time.Duration {
			msg, best := deep(n), time.Hour
			for range 10 {
				start := cpuTime()
				Parse(msg)
				best = min(best, cpuTime()-start)
			}
			return best
		}
		few, many := best(5000), best(20_000)
		t.Logf("%s: %v for 5,000 levels, %v for 20,000", name, few, many)
		if !raceEnabled && few > 100*time.Millisecond {
			t.Errorf("%s: %v for 5,000 levels, more than a tenth of a second", name, few)
		}
		if many > 9*max(few, time.Millisecond) {
			t.Errorf("%s: %v for 5,000 levels, %v for 20,000", name, few, many)
		}
	}
}

func TestParseLimits(t *testing.T) {
	p := Parse(nestedMessage(200))
	depth := 0
	for ; len(p.Children) > 0; p = p.Children[len(p.Children)-1] {
		depth++
	}
	if depth != MaxDepth-1 || p.Type != "APPLICATION" || p.Subtype != "OCTET-STREAM" || p.Params != nil {
		t.Errorf("depth %d, then %s/%s", depth, p.Type, p.Subtype)
	}
	p = Parse([]byte(mixed(strings.Repeat("--b\r\n\r\nx\r\n", 5000) + "--b--\r\n")))
	if n := len(p.Children); n != MaxParts-1 {
		t.Errorf("%d parts, want %d", n, MaxParts-1)
	}
	if last := p.Children[len(p.Children)-1]; last.Body.End() != p.Body.End()-int64(len("\r\n--b--\r\n")) {
		t.Errorf("the last part ends at %d of %d", last.Body.End(), p.Body.End())
	}
	long := strings.Repeat("A: b\r\n", MaxHeader/6+10) + "\r\nbody"
	p = Parse([]byte(long))
	if p.Header.Len > MaxHeader || p.Header.Len < MaxHeader-6 || p.Header.Len%6 != 0 || p.Body.End() != int64(len(long)) {
		t.Errorf("header %v, body %v", p.Header, p.Body)
	}
	if n := HeaderLen([]byte(long)); int64(n) != p.Header.Len {
		t.Errorf("HeaderLen %d, Parse %d", n, p.Header.Len)
	}
	p = Parse([]byte("Content-Type: a/b" + strings.Repeat("; a=b", 200) + "\r\n\r\n"))
	if len(p.Params) != MaxParams {
		t.Errorf("%d parameters, want %d", len(p.Params), MaxParams)
	}
	p = Parse([]byte("To: " + strings.Repeat("a,", MaxAddresses) + "a\r\nCc: x@y\r\n\r\n"))
	if len(p.Envelope.To) != MaxAddresses || p.Envelope.Cc != nil {
		t.Errorf("%d and %d addresses", len(p.Envelope.To), len(p.Envelope.Cc))
	}
}

// TestParseLinear checks that twice the message takes not much more than twice
// the time.
func TestParseLinear(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: measures time")
	}
	for name, unit := range map[string]string{
		"dashes":  "-\r\n--b\r\n\r\n-----------------------------------\r\n",
		"headers": "--b\r\nContent-Type: message/rfc822\r\n\r\nTo: a@b, c@d\r\n",
	} {
		measure := func(n int) time.Duration {
			msg := []byte(mixed(strings.Repeat(unit, n)))
			best := time.Hour
			for range 5 {
				start := time.Now()
				Parse(msg)
				best = min(best, time.Since(start))
			}
			return best
		}
		one, eight := measure(8_000), measure(64_000)
		if eight > 24*one+time.Millisecond {
			t.Errorf("%s: %v, eight times as much %v", name, one, eight)
		}
	}
}

func TestCorpus(t *testing.T) {
	size, octets := 0, 0
	mails := corpus(t)
	for _, m := range mails {
		p := Parse(m.data)
		checkPart(t, m.data, p)
		size += len(p.AppendBinary(nil))
		octets += len(m.data)
	}
	t.Logf("%d messages of %d octets on average, their rows of %d", len(mails), octets/len(mails), size/len(mails))
}

// TestCorpusDamaged cuts and changes real messages: nothing may break.
func TestCorpusDamaged(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, m := range corpus(t) {
		b := bytes.Clone(m.data[:min(len(m.data), 20_000)])
		for range 5 {
			b[rnd.IntN(len(b))] = "\r\n-:;\"(<=\x00"[rnd.IntN(10)]
		}
		b = b[:rnd.IntN(len(b)+1)]
		checkPart(t, b, Parse(b))
	}
}

// checkPart checks what holds for every part of every message: spans, lines,
// limits, the encoding, and the form of what clients get.
func checkPart(t testing.TB, msg []byte, p *Part) {
	t.Helper()
	if p.Header.Off != 0 || p.Body.End() != int64(len(msg)) || p.Envelope == nil {
		t.Fatalf("root %v %v of %d octets", p.Header, p.Body, len(msg))
	}
	if int64(HeaderLen(msg)) != p.Header.Len {
		t.Fatalf("HeaderLen %d, header %v", HeaderLen(msg), p.Header)
	}
	parts := 0
	checkTree(t, msg, p, Span{0, int64(len(msg))}, 1, &parts)
	row := p.AppendBinary(nil)
	q, err := DecodePart(row)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, q) {
		t.Fatalf("decoded %s, encoded %s", shape(q), shape(p))
	}
	for _, utf8 := range []bool{false, true} {
		parseNode(t, AppendEnvelope(nil, p.Envelope, utf8))
		parseNode(t, AppendBodyStructure(nil, p, true, utf8))
		parseNode(t, AppendBodyStructure(nil, p, false, utf8))
	}
}

func checkTree(t testing.TB, msg []byte, p *Part, in Span, depth int, parts *int) {
	t.Helper()
	*parts++
	if depth > MaxDepth || *parts > MaxParts || len(p.Params) > MaxParams || p.Header.Len > MaxHeader {
		t.Fatalf("beyond a limit: depth %d, parts %d", depth, *parts)
	}
	if p.Header.Off < in.Off || p.Header.Len < 0 || p.Body.Off != p.Header.End() || p.Body.Len < 0 || p.Body.End() > in.End() {
		t.Fatalf("%v %v is not in %v", p.Header, p.Body, in)
	}
	if n := bytes.Count(msg[p.Body.Off:p.Body.End()], []byte("\n")); int64(n) != p.Lines {
		t.Fatalf("%d lines, want %d", p.Lines, n)
	}
	if (p.Type == "MULTIPART") != (len(p.Children) > 0) || p.Message != nil && p.Type != "MESSAGE" {
		t.Fatalf("%s/%s with %d children", p.Type, p.Subtype, len(p.Children))
	}
	rest := p.Body
	for _, c := range p.Children {
		checkTree(t, msg, c, rest, depth+1, parts)
		rest = Span{c.Body.End(), rest.End() - c.Body.End()}
	}
	if m := p.Message; m != nil {
		if m.Header.Off != p.Body.Off || m.Body.End() != p.Body.End() || m.Envelope == nil {
			t.Fatalf("message %v %v in %v", m.Header, m.Body, p.Body)
		}
		checkTree(t, msg, m, p.Body, depth+1, parts)
	}
}

// TestGoMessage compares with another reader of MIME where that succeeds: the
// types and decoded octets of all leaves.
func TestGoMessage(t *testing.T) {
	compared, differ := 0, 0
	for _, m := range corpus(t) {
		msg := m.data
		if bytes.HasPrefix(msg, []byte("From ")) { // of a mailbox file, which it refuses
			next, _ := lineEnd(msg, 0)
			msg = msg[next:]
		}
		e, err := gomessage.Read(bytes.NewReader(msg))
		if err != nil && !gomessage.IsUnknownCharset(err) {
			continue
		}
		var theirs []string
		err = e.Walk(func(path []int, e *gomessage.Entity, err error) error {
			if err != nil && !gomessage.IsUnknownCharset(err) {
				return err
			}
			typ, _, err := e.Header.ContentType()
			if err != nil {
				return err
			}
			if !strings.HasPrefix(typ, "multipart/") {
				body, err := io.ReadAll(e.Body)
				if err != nil {
					return err
				}
				if strings.HasPrefix(typ, "text/") {
					body = nil // converted by its charset, not ours to compare
				}
				theirs = append(theirs, strings.ToUpper(typ)+"\x00"+string(body))
			}
			return nil
		})
		if err != nil {
			continue
		}
		var ours []string
		var walk func(p *Part)
		walk = func(p *Part) {
			for _, c := range p.Children {
				walk(c)
			}
			if len(p.Children) > 0 {
				return
			}
			body, _ := p.Decoded(msg, 0)
			if p.Type == "TEXT" {
				body = nil
			}
			ours = append(ours, p.Type+"/"+p.Subtype+"\x00"+string(body))
		}
		walk(Parse(msg))
		compared++
		if a, b := strings.Join(ours, "\x01"), strings.Join(theirs, "\x01"); a != b {
			differ++
			i := 0
			for i < len(a) && i < len(b) && a[i] == b[i] {
				i++
			}
			t.Logf("%s: %d leaves, %d of theirs; %.40q, %.40q of theirs", m.name, len(ours), len(theirs), a[max(0, i-10):], b[max(0, i-10):])
		}
	}
	t.Logf("%d of %d equal", compared-differ, compared)
	if compared < 1000 || differ*50 > compared {
		t.Errorf("%d of %d differ", differ, compared)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(""))
	f.Add(plain())
	f.Add(nestedMessage(3))
	f.Add([]byte(mixed("--b\r\nContent-Type: message/rfc822\r\n\r\nFrom: \"a\" <b@c>, d: e@f;\r\n\r\nhi\r\n--b--\r\n")))
	f.Add([]byte("Content-Type: a/b; x*0*=utf-8''a; x*1=b; y*=''%41\r\nContent-Language: de\r\n\r\n"))
	f.Add([]byte("To: <@a,@b:c@d>, (x) \"y\\\"z\" <e@[1.2.3.4]>, ....@x, a b\r\nSubject: \x00\xff\r\n\r\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > 1<<16 {
			return
		}
		p := Parse(msg)
		checkPart(t, msg, p)
		for _, s := range sections(p, nil) {
			if p.Find(s.path) != s.part {
				t.Fatalf("part %v is not found", s.path)
			}
			s.part.Decoded(msg, 0)  //nolint:errcheck // must not panic
			s.part.Text(msg, 1<<10) // nor this
		}
		header := msg[:p.Header.Len]
		all := Select(nil, header, nil, true)
		none := Select(nil, header, nil, false)
		if string(none) != "\r\n" || len(all) < len(header) && p.Header.Len > 2 && !bytes.Contains(header, []byte("\n\n")) && bytes.HasSuffix(header, []byte("\r\n\r\n")) {
			t.Fatalf("selected %q of %q", all, header)
		}
		for _, l := range [][]Address{p.Envelope.From, p.Envelope.To} {
			for _, a := range l {
				if a.Name != nil {
					DecodeWords(*a.Name)
				}
			}
		}
		if p.Envelope.Date != nil {
			ParseDate(*p.Envelope.Date) //nolint:errcheck // must not panic
		}
		if p.Envelope.Subject != nil {
			DecodeWords(*p.Envelope.Subject)
		}
	})
}

func FuzzDecodePart(f *testing.F) {
	f.Add(Parse(plain()).AppendBinary(nil))
	f.Add(Parse(nestedMessage(3)).AppendBinary(nil))
	f.Add([]byte{partVersion, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, row []byte) {
		p, err := DecodePart(row)
		if err != nil {
			return
		}
		q, err := DecodePart(p.AppendBinary(nil))
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%v: %+v, want %+v", err, q, p)
		}
		AppendBodyStructure(nil, p, true, false)
	})
}

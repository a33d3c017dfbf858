package message

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"mime/quotedprintable"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestDecoded(t *testing.T) {
	for name, tt := range map[string]struct {
		encoding, body, want string
		limit                int64
		err                  error
	}{
		"none":             {"", "a=41", "a=41", 0, nil},
		"7bit":             {"7bit", "a=41", "a=41", 0, nil},
		"binary, limit":    {"binary", "abc", "ab", 2, nil},
		"unknown":          {"x-uue", "abc", "", 0, ErrUnknownEncoding},
		"base64":           {"BASE64", "SGVs\r\nbG8=\r\n", "Hello", 0, nil},
		"base64, limit":    {"base64", "SGVsbG8gd29ybGQ=", "Hell", 4, nil},
		"base64, odd":      {"base64", " S-G*V\x80s bG8", "Hello", 0, nil},
		"base64, joined":   {"base64", "SGU=bGw=bw==", "Hello", 0, nil},
		"base64, one":      {"base64", "SGVsb", "Hel", 0, nil},
		"base64, nothing":  {"base64", "====", "", 0, nil},
		"qp":               {"quoted-printable", "a=3d=3D=\r\nb \t\r\nc=20\r\n", "a==b\r\nc \r\n", 0, nil},
		"qp, odd":          {"quoted-printable", "a=x=4=\t \r\n=", "a=x=4", 0, nil},
		"qp, odd 2":        {"quoted-printable", "==41=E", "=A=E", 0, nil},
		"qp, limit":        {"quoted-printable", "=41=42=43", "AB", 2, nil},
		"qp, LF":           {"quoted-printable", "a =\nb\nc", "a b\nc", 0, nil},
		"limit beyond end": {"base64", "SGVs", "Hel", 1 << 40, nil},
	} {
		head := "MIME-Version: 1.0\r\nContent-Transfer-Encoding: " + tt.encoding + "\r\n\r\n"
		msg := []byte(head + tt.body)
		got, err := Parse(msg).Decoded(msg, tt.limit)
		if string(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q %v, want %q", name, got, err, tt.want)
		}
	}
	p := Parse([]byte("A: b\r\n\r\nbody"))
	if _, err := p.Decoded([]byte("A: b\r\n\r\nbod"), 0); !errors.Is(err, ErrSpan) {
		t.Errorf("a shorter message: %v", err)
	}
}

// TestDecodeReference decodes what the standard library encodes, and real
// bodies as it does.
func TestDecodeReference(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		want := make([]byte, rnd.IntN(300))
		for i := range want {
			want[i] = byte(rnd.Uint32())
			if rnd.IntN(3) > 0 {
				want[i] = "ab =.\t"[rnd.IntN(6)]
			}
		}
		var b bytes.Buffer
		w := quotedprintable.NewWriter(&b)
		w.Binary = true
		w.Write(want) //nolint:errcheck // to memory
		w.Close()     //nolint:errcheck // to memory
		if got := decodeQuotedPrintable(b.Bytes(), b.Len()); !bytes.Equal(got, want) {
			t.Fatalf("%q became %q, want %q", b.Bytes(), got, want)
		}
	}
	for _, m := range corpus(t) {
		for _, s := range sections(Parse(m.data), nil) {
			body := m.data[s.part.Body.Off:s.part.Body.End()]
			if s.part.Encoding != "QUOTED-PRINTABLE" {
				continue
			}
			want, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
			got, _ := s.part.Decoded(m.data, 0)
			if err == nil && !bytes.Equal(got, want) {
				t.Errorf("%s: %v: %d octets, want %d", m.name, s.path, len(got), len(want))
			}
		}
	}
}

func TestText(t *testing.T) {
	for name, tt := range map[string]struct {
		typ, body, want string
		ok              bool
	}{
		"no charset":   {"text/plain", "\xc3\xa4", "ä", true},
		"latin 1":      {"text/plain; charset=iso-8859-1", "\xe4", "ä", true},
		"latin 1, any": {"text/html; charset=\"ISO-8859-1\"", "a", "a", true},
		"latin 15":     {"text/plain; charset=ISO-8859-15", "\xa4", "€", true},
		"1252":         {"text/plain; charset=windows-1252", "\x80", "€", true},
		"koi8-r":       {"text/plain; charset=koi8-r", "\xc1", "а", true},
		"shift-jis":    {"text/plain; charset=Shift_JIS", "\x93\xfa", "日", true},
		"2022-jp":      {"text/plain; charset=iso-2022-jp", "\x1b$BF|\x1b(B", "日", true},
		"gb2312":       {"text/plain; charset=gb2312", "\xd6\xd0", "中", true},
		"hz":           {"text/plain; charset=hz-gb-2312", "~{VP~}", "中", true},
		"utf-16":       {"text/plain; charset=utf-16le", "a\x00", "a", true},
		"utf-7":        {"text/plain; charset=utf-7", "a+AOQ-b +- +2D3eAA", "aäb + \U0001F600", true},
		"unknown":      {"text/plain; charset=x-none", "\xe4", "\xe4", true},
		"extended":     {"text/plain; charset*=us-ascii'en'iso-8859-1", "\xe4", "ä", true},
		"no text":      {"image/gif", "x", "", false},
	} {
		msg := []byte("Content-Type: " + tt.typ + "\r\n\r\n" + tt.body)
		got, ok := Parse(msg).Text(msg, 0)
		if string(got) != tt.want || ok != tt.ok {
			t.Errorf("%s: %q %v, want %q", name, got, ok, tt.want)
		}
	}
	msg := []byte("Content-Type: text/plain; charset=us-ascii\r\n\r\nplain")
	if got, _ := Parse(msg).Text(msg, 0); &got[0] != &msg[len(msg)-5] {
		t.Error("plain text is copied")
	}
}

func TestDecodeWords(t *testing.T) {
	for in, want := range map[string]string{ // most of RFC 2047 8
		"=?US-ASCII?Q?Keith_Moore?= <moore@cs.utk.edu>":                                                               "Keith Moore <moore@cs.utk.edu>",
		"=?ISO-8859-1?Q?Keld_J=F8rn_Simonsen?= x":                                                                     "Keld Jørn Simonsen x",
		"=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=\r\n =?ISO-8859-2?B?dSB1bmRlcnN0YW5kIHRoZSBleGFtcGxlLg==?=": "If you can read this you understand the example.",
		"(=?ISO-8859-1?Q?a?=)":                       "(a)",
		"(=?ISO-8859-1?Q?a?= b)":                     "(a b)",
		"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=":      "ab",
		"=?ISO-8859-1?Q?a?=  \t =?ISO-8859-1?Q?b?= ": "ab ",
		"=?ISO-8859-1?Q?a_b?=":                       "a b",
		"=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=":     "a b",
		"=?utf-8?q?=C3?= =?utf-8?q?=A4?=":            "ä",
		"=?utf-8?b?w6Q?=":                            "ä",
		"=?utf-8*de?q?=C3=A4?=":                      "ä",
		"x=?utf-8?q?=C3=A4?=y":                       "xäy",
		"plain":                                      "plain",
		"=?":                                         "=?",
		"=??q?x?=":                                   "=??q?x?=",
		"=?utf-8?x?y?=":                              "=?utf-8?x?y?=",
		"=?utf-8?q?half":                             "=?utf-8?q?half",
		"=?no-such?q?x?= y":                          "=?no-such?q?x?= y",
		"=?no-such?q?x?= =?no-such?q?y?=":            "=?no-such?q?x?= =?no-such?q?y?=",
		"=?utf-8?q?a?= =?bad =?utf-8?q?b?=":          "a =?bad b",
		"=?utf-8?q?==41?=":                           "=A",
		"=?iso-2022-jp?B?GyRCRnwbKEI=?=":             "日",
	} {
		if got := DecodeWords(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	start := time.Now()
	for _, unit := range []string{"=?", "=?a?q?", "=?utf-8?q?a?= ", "=?utf-8?q?a?=x"} {
		DecodeWords(strings.Repeat(unit, 100_000))
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("%v for long values", d)
	}
}

func TestContains(t *testing.T) {
	long := strings.Repeat("x", foldChunk-3)
	for _, tt := range []struct {
		hay, needle string
		want        bool
	}{
		{"", "", true},
		{"a", "", true},
		{"", "a", false},
		{"Hello World", "LO WO", true},
		{"Hello World", "low", false},
		{"[@Z`{", "[@z`{", true},
		{"@", "`", false},
		{"[", "{", false},
		{"Grüße aus KÖLN", "GRÜSSE", false},
		{"Grüße aus KÖLN", "grüße", true},
		{"Grüße aus KÖLN", "köln", true},
		{"cafe\u0301", "café", true},
		{"café", "cafe\u0301", true},
		{"ΟΔΥΣΣΕΥΣ", "οδυσσευς", true},
		{"ПРИВЕТ", "привет", true},
		{"\u212a", "k", true}, // the sign for kelvin
		{"ＡＢＣ", "abc", true},  // fullwidth letters
		{"日本語", "本", true},
		{"日本語", "木", false},
		{"\xff\xfeabc", "ABC", true},
		{"\xe4bc", "\xe4B", true},
		{"\xe4bc", "äbc", false},
		{long + "Needle", "needle", true},
		{long + "äöüÄÖÜ", "üäö", true},
		{long + long + "needl", "needle", false},
	} {
		if got := Contains([]byte(tt.hay), Fold([]byte(tt.needle))); got != tt.want {
			t.Errorf("%.40q in %.40q: %v", tt.needle, tt.hay, got)
		}
	}
}

// FuzzContains compares with folding the whole text at once.
func FuzzContains(f *testing.F) {
	f.Add([]byte("Hello"), []byte("ELL"), 3)
	f.Add([]byte("Grüße \xff"), []byte("ü"), foldChunk-2)
	f.Fuzz(func(t *testing.T, hay, needle []byte, pad int) {
		if pad < 0 || pad > 2*foldChunk {
			return
		}
		hay = append(bytes.Repeat([]byte("-"), pad), hay...)
		needle = Fold(needle)
		if !utf8.Valid(needle) || !utf8.Valid(hay) {
			Contains(hay, needle)
			return
		}
		if got, want := Contains(hay, needle), bytes.Contains(Fold(hay), needle); got != want {
			t.Fatalf("%q in %d+%q: %v, want %v", needle, pad, hay[pad:], got, want)
		}
	})
}

func TestParseDate(t *testing.T) {
	for in, want := range map[string]string{
		"Fri, 21 Nov 1997 09:55:06 -0600": "1997-11-21T09:55:06-06:00",
		"21 Nov 1997 09:55 -0600":         "1997-11-21T09:55:00-06:00",
		"Fri,21 Nov 1997 09:55:06 GMT":    "1997-11-21T09:55:06Z",
		"Thu,\r\n      13\r\n        Feb\r\n          1969\r\n      23:32\r\n               -0330 (Newfoundland Time)": "1969-02-13T23:32:00-03:30",
		"Fri, 21 Nov 97 09(comment):   55  :  06 -0600":                                                                "bad",
		"Fri, 21 Nov 97 09:55:06 -0600 (x (y))":                                                                        "1997-11-21T09:55:06-06:00",
		"1 Jan 49 00:00 UT":                                                                                            "2049-01-01T00:00:00Z",
		"1 Jan 50 00:00 UT":                                                                                            "1950-01-01T00:00:00Z",
		"1 Jan 102 00:00 UT":                                                                                           "2002-01-01T00:00:00Z",
		"1 Jan 2002 00:00 EST":                                                                                         "2002-01-01T00:00:00-05:00",
		"1 Jan 2002 00:00 pdt":                                                                                         "2002-01-01T00:00:00-07:00",
		"1 Jan 2002 00:00 A":                                                                                           "2002-01-01T00:00:00Z",
		"1 Jan 2002 00:00 CET":                                                                                         "2002-01-01T00:00:00Z",
		"1 Jan 2002 00:00":                                                                                             "2002-01-01T00:00:00Z",
		"1 January 2002 00:00 +0100":                                                                                   "2002-01-01T00:00:00+01:00",
		"Monday, 1-Jan-02 10:20:30 GMT":                                                                                "2002-01-01T10:20:30Z",
		"Tue Jan  1 10:20:30 2002":                                                                                     "2002-01-01T10:20:30Z",
		"Tue Jan  1 10:20:30 CET 2002":                                                                                 "2002-01-01T10:20:30Z",
		"Tue, 1 Jan 2002 10.20.30 +0000":                                                                               "2002-01-01T10:20:30Z",
		"Tue, 1 Jan 2002 23:59:60 +0000":                                                                               "2002-01-01T23:59:59Z",
		"Tue, 29 Feb 2000 1:02:03 +0000":                                                                               "2000-02-29T01:02:03Z",
		"Tue, 30 Feb 2000 1:02:03 +0000":                                                                               "bad",
		"Tue, 0 Feb 2000 1:02:03 +0000":                                                                                "bad",
		"Tue, 1 Foo 2000 1:02:03 +0000":                                                                                "bad",
		"Tue, 1 Jan 2000 24:02:03 +0000":                                                                               "bad",
		"Tue, 1 Jan 20000 1:02:03 +0000":                                                                               "bad",
		"Tue, 1 Jan":                                                                                                   "bad",
		"":                                                                                                             "bad",
		"(":                                                                                                            "bad",
		"soon":                                                                                                         "bad",
	} {
		got := "bad"
		if d, err := ParseDate(in); err == nil {
			got = d.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func FuzzParseDate(f *testing.F) {
	f.Add("Fri, 21 Nov 1997 09:55:06 -0600 (x)")
	f.Add("Tue Jan  1 10:20:30 2002")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDate(s)
		if err != nil {
			return
		}
		again, err := ParseDate(d.Format(dateLayout))
		if err != nil || !again.Equal(d) {
			t.Fatalf("%q is %v, and that %v (%v)", s, d, again, err)
		}
	})
}

func FuzzDecodeWords(f *testing.F) {
	f.Add("=?utf-8?q?=C3=A4?= =?utf-8?b?w6Q=?= x")
	f.Add("=?iso-2022-jp?B?GyRCRnwbKEI=?= =?utf-7?q?+AOQ-?=")
	f.Fuzz(func(t *testing.T, s string) {
		got := DecodeWords(s)
		if !strings.Contains(s, "=?") && got != s {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

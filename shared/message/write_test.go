package message

import (
	"bytes"
	"mime"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

func sampleReceived() Received {
	return Received{
		Helo: "client.example.net", ClientIP: netip.MustParseAddr("192.0.2.7"), ClientName: "mail.example.net",
		By: "relay1.example.com", With: "ESMTPSA", ID: "4F7A21C2B7D9",
		For: mail.Address{Local: "eva", Domain: "example.com"}, TLS: "TLSv1.3 with cipher TLS_AES_128_GCM_SHA256",
		Time: time.Date(2025, 3, 4, 10, 11, 12, 0, time.FixedZone("", 3600)),
	}
}

func TestAppendReceived(t *testing.T) {
	for name, tt := range map[string]struct {
		r    Received
		want string
	}{
		"all": {
			sampleReceived(),
			"Received: from client.example.net (mail.example.net [192.0.2.7])\r\n" +
				"\t(using TLSv1.3 with cipher TLS_AES_128_GCM_SHA256) by relay1.example.com\r\n" +
				"\twith ESMTPSA id 4F7A21C2B7D9 for <eva@example.com>;\r\n" +
				"\tTue, 4 Mar 2025 10:11:12 +0100\r\n",
		},
		"little": {
			Received{By: "a.example", Time: time.Unix(0, 0).UTC()},
			"Received: by a.example; Thu, 1 Jan 1970 00:00:00 +0000\r\n",
		},
		"no name, IPv6": {
			Received{ClientIP: netip.MustParseAddr("2001:db8::1%eth0"), By: "a", With: "LMTP", Time: time.Unix(0, 0).UTC()},
			"Received: from unknown (unknown [IPv6:2001:db8::1]) by a with LMTP;\r\n" +
				"\tThu, 1 Jan 1970 00:00:00 +0000\r\n",
		},
		"injection": {
			Received{
				Helo: "a\r\nBcc: x (", ClientName: "n\n)[", ClientIP: netip.MustParseAddr("::ffff:192.0.2.1"), By: "b;c\x00",
				With: "A B", ID: "(x)", TLS: "a) b \r\n(\\", For: mail.Address{Local: "l\r\nX: y", Domain: "d"}, Time: time.Unix(0, 0).UTC(),
			},
			"Received: from a??Bcc:?x?? (n??[ [192.0.2.1]) (using a? b ????) by b?c?\r\n" +
				"\twith A?B id ?x? for <\"l??X: y\"@d>; Thu, 1 Jan 1970 00:00:00 +0000\r\n",
		},
	} {
		if got := string(AppendReceived(nil, tt.r)); got != tt.want {
			t.Errorf("%s:\n%q, want\n%q", name, got, tt.want)
		}
	}
}

func TestCountReceived(t *testing.T) {
	header := "Received: a\r\nX: Received: b\r\nRECEIVED : c\r\n d\r\n\r\nReceived: body\r\n"
	if n := CountReceived([]byte(header)); n != 2 {
		t.Errorf("%d, want 2", n)
	}
}

func TestAppendReturnPath(t *testing.T) {
	for addr, want := range map[mail.Address]string{
		{}:                                "Return-Path: <>\r\n",
		{Local: "a", Domain: "b.example"}: "Return-Path: <a@b.example>\r\n",
		{Local: "a\r\nX: ", Domain: "b"}:  "Return-Path: <\"a??X: \"@b>\r\n",
	} {
		if got := string(AppendReturnPath(nil, addr)); got != want {
			t.Errorf("%v: %q, want %q", addr, got, want)
		}
	}
}

func TestNewMessageID(t *testing.T) {
	a, b := NewMessageID("h.example"), NewMessageID("h.example")
	if a == b || !strings.HasPrefix(a, "<") || !strings.HasSuffix(a, "@h.example>") || len(a) < 34 {
		t.Errorf("%q, %q", a, b)
	}
	if id := NewMessageID("h\r\nX: >"); strings.ContainsAny(id, "\r\n ") || strings.Count(id, ">") != 1 {
		t.Errorf("%q", id)
	}
}

func TestAppendField(t *testing.T) {
	for name, tt := range map[string]struct{ name, value, want string }{
		"plain":       {"Subject", "a b", "Subject: a b\r\n"},
		"empty":       {"Subject", "", "Subject:\r\n"},
		"line ends":   {"Subject", "a\r\nBcc: b\n\tc", "Subject: a Bcc: b c\r\n"},
		"bad name":    {"Sub ject", "a", ""},
		"bad name 2":  {"A\r\nB", "a", ""},
		"bad name 3":  {"", "a", ""},
		"umlaut":      {"Subject", "a grün b", "Subject: a =?utf-8?B?Z3LDvG4=?= b\r\n"},
		"two umlauts": {"Subject", "ä ö x", "Subject: =?utf-8?B?w6Qgw7Y=?= x\r\n"},
		"half word":   {"Subject", "=?x", "Subject: =?utf-8?B?PT94?=\r\n"},
		"whole word":  {"Subject", "=?utf-8?q?x?=", "Subject: =?utf-8?q?x?=\r\n"},
		"invalid":     {"Subject", "\xff", "Subject: =?utf-8?B?77+9?=\r\n"},
		"folded": {
			"Subject", strings.Repeat("word ", 20),
			"Subject: word word word word word word word word word word word word word\r\n\tword word word word word word word\r\n",
		},
	} {
		if got := string(AppendField(nil, tt.name, tt.value)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestAppendMailboxField(t *testing.T) {
	eva := mail.Address{Local: "eva", Domain: "example.com"}
	for name, tt := range map[string]struct {
		phrase string
		addr   mail.Address
		want   string
	}{
		"none":   {"", eva, "To: <eva@example.com>\r\n"},
		"atoms":  {"Eva Meier", eva, "To: Eva Meier <eva@example.com>\r\n"},
		"quoted": {`Meier, "E"`, eva, `To: "Meier, \"E\"" <eva@example.com>` + "\r\n"},
		"8-bit":  {"Evä", eva, "To: =?utf-8?B?RXbDpA==?= <eva@example.com>\r\n"},
		"inject": {"a\r\nX: b", eva, "To: \"a X: b\" <eva@example.com>\r\n"},
		"null":   {"", mail.Address{}, "To: <>\r\n"},
	} {
		if got := string(AppendMailboxField(nil, "To", tt.phrase, tt.addr)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// FuzzAppendField checks that no value leaves its field, and that text comes
// back when it is decoded.
func FuzzAppendField(f *testing.F) {
	f.Add("a\r\nB: c", "x")
	f.Add(strings.Repeat("ä", 200), "host")
	f.Add("=?utf-8?q?x", "[::1]")
	f.Add(strings.Repeat("x", 2000), "\x00")
	f.Fuzz(func(t *testing.T, value, other string) {
		check := func(b []byte) {
			t.Helper()
			n := 0
			for range Fields(b) {
				n++
			}
			if n != 1 || !bytes.HasSuffix(b, []byte("\r\n")) || bytes.Contains(b, []byte("\r\n\r\n")) {
				t.Fatalf("%d fields: %q", n, b)
			}
			for _, line := range bytes.SplitAfter(b, []byte("\r\n")) {
				if len(line) > 1000 {
					t.Fatalf("line of %d octets", len(line))
				}
				if i := bytes.IndexAny(bytes.TrimSuffix(line, []byte("\r\n")), "\r\n\x00"); i >= 0 {
					t.Fatalf("%q", line)
				}
			}
		}
		field := AppendField(nil, "Subject", value)
		check(field)
		want := strings.Join(strings.FieldsFunc(value, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
		if got := DecodeWords(string(Unfold(field[8:]))); !strings.Contains(want, "=?") && got != strings.ToValidUTF8(want, "\uFFFD") &&
			strings.ToValidUTF8(want, "\uFFFD") == want {
			// Encoded and plain words are one text to a reader.
			if strings.Join(strings.Fields(got), " ") != want {
				t.Fatalf("%q came back as %q", want, got)
			}
		}
		addr := mail.Address{Local: value[:min(len(value), 64)], Domain: other[:min(len(other), 64)]}
		check(AppendMailboxField(nil, "To", value[:min(len(value), 400)], addr))
		check(AppendReturnPath(nil, addr))
		check(AppendReceived(nil, Received{
			Helo: value, ClientName: other, By: other, With: value, ID: other, TLS: value, For: addr, Time: time.Unix(0, 0).UTC(),
		}))
		if id := NewMessageID(other); strings.ContainsAny(id, "\r\n ") {
			t.Fatalf("%q", id)
		}
		(&mime.WordDecoder{}).DecodeHeader(string(field)) //nolint:errcheck // must not hang or panic
	})
}

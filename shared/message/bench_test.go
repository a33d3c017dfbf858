package message

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// plain is the usual message: 10 KB of text under the header of a delivery.
func plain() []byte {
	var b bytes.Buffer
	b.WriteString("Return-Path: <ann@example.net>\r\n")
	for i := range 4 {
		fmt.Fprintf(&b, "Received: from mx%d.example.net (mx%d.example.net [192.0.2.%d])\r\n", i, i, i)
		b.WriteString("\tby relay.example.com with ESMTPS id 4F7A21C2B7\r\n")
		b.WriteString("\tfor <eva@example.com>; Tue, 4 Mar 2025 10:11:12 +0100\r\n")
	}
	b.WriteString("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.net; s=s1;\r\n" +
		"\th=from:to:subject:date:message-id; bh=" + strings.Repeat("A", 43) + "=;\r\n" +
		"\tb=" + strings.Repeat("B", 70) + "\r\n\t" + strings.Repeat("C", 70) + "\r\n")
	b.WriteString("Date: Tue, 4 Mar 2025 10:11:10 +0100\r\nFrom: Ann Smith <ann.smith@example.net>\r\n" +
		"To: Eva Meier <eva@example.com>, bob@example.com\r\nCc: \"Team, the\" <team@example.com>\r\n" +
		"Subject: Minutes of the meeting on Monday\r\nMessage-ID: <20250304101110.4711@mail.example.net>\r\n" +
		"In-Reply-To: <20250303090000.4710@mail.example.com>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
	for b.Len() < 10<<10 {
		b.WriteString("The quick brown fox jumps over the lazy dog, and then it sleeps.\r\n")
	}
	return b.Bytes()
}

// nestedMessage has n levels of multipart with a text in each.
func nestedMessage(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d.\r\n\r\n--b%d.\r\n\r\ntext\r\n--b%d.\r\n", i, i, i)
	}
	b.WriteString("\r\nend\r\n")
	for i := n - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "--b%d.--\r\n", i)
	}
	return b.Bytes()
}

// attachment is a message with n octets of base64 in lines.
func attachment(n int) []byte {
	var b bytes.Buffer
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_x\"\r\n\r\n--=_x\r\n\r\nhello\r\n" +
		"--=_x\r\nContent-Type: application/pdf; name=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	line := strings.Repeat("Qk5v", 19) + "\r\n"
	for range n / len(line) {
		b.WriteString(line)
	}
	b.WriteString("--=_x--\r\n")
	return b.Bytes()
}

func BenchmarkParsePlain(b *testing.B) {
	msg := plain()
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		Parse(msg)
	}
}

func BenchmarkParseAttachment(b *testing.B) {
	msg := attachment(1 << 20)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		Parse(msg)
	}
}

func BenchmarkAppendBinary(b *testing.B) {
	p := Parse(plain())
	buf := p.AppendBinary(nil)
	b.ReportAllocs()
	for b.Loop() {
		buf = p.AppendBinary(buf[:0])
	}
	b.ReportMetric(float64(len(buf)), "octets")
}

func BenchmarkDecodePart(b *testing.B) {
	row := Parse(plain()).AppendBinary(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodePart(row); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendEnvelope(b *testing.B) {
	p := Parse(plain())
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendEnvelope(buf[:0], p.Envelope, false)
	}
}

func BenchmarkContainsASCII(b *testing.B) {
	hay := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog, and then it sleeps.\r\n"), 1<<14)
	needle := Fold([]byte("Quick Brown Cat"))
	b.SetBytes(int64(len(hay)))
	b.ReportAllocs()
	for b.Loop() {
		if Contains(hay, needle) {
			b.Fatal("found")
		}
	}
}

func BenchmarkContainsUmlauts(b *testing.B) {
	hay := bytes.Repeat([]byte("Grüße aus der schönen Stadt Köln, über die man viel hört.\r\n"), 1<<14)
	needle := Fold([]byte("Düsseldorf"))
	b.SetBytes(int64(len(hay)))
	b.ReportAllocs()
	for b.Loop() {
		if Contains(hay, needle) {
			b.Fatal("found")
		}
	}
}

func BenchmarkDecodeBase64(b *testing.B) {
	data := bytes.Repeat([]byte(base64.StdEncoding.EncodeToString(make([]byte, 57))+"\r\n"), 1<<14)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		decodeBase64(data, len(data))
	}
}

func BenchmarkDecodeQuotedPrintable(b *testing.B) {
	data := bytes.Repeat([]byte("Gr=C3=BC=C3=9Fe aus der sch=C3=B6nen Stadt, und noch mehr Text ohne =\r\n"), 1<<14)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		decodeQuotedPrintable(data, len(data))
	}
}

func BenchmarkFields(b *testing.B) {
	msg := plain()
	header := msg[:HeaderLen(msg)]
	b.SetBytes(int64(len(header)))
	b.ReportAllocs()
	for b.Loop() {
		for f := range Fields(header) {
			_ = f
		}
	}
}

func BenchmarkReceived(b *testing.B) {
	r := sampleReceived()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendReceived(buf[:0], r)
	}
}

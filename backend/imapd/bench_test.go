package imapd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
)

const benchMessages = 2000

// benchMessage is an ordinary message of about size octets.
func benchMessage(i, size int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Return-Path: <sender%d@example.org>\r\n", i)
	for hop := range 3 {
		fmt.Fprintf(&b, "Received: from mx%d.example.org (mx%d.example.org [192.0.2.%d])\r\n\tby relay%d.example.test (Postern) with ESMTPS id %08x%08x\r\n\tfor <eva@example.test>; Tue, 3 Nov 2026 10:%02d:%02d +0100\r\n", hop, hop, hop+1, hop, i, hop, i/60%60, i%60)
	}
	fmt.Fprintf(&b, "From: \"Sender Number %d\" <sender%d@example.org>\r\n", i, i)
	fmt.Fprintf(&b, "To: Eva Muster <eva@example.test>, \"Second Person\" <second@example.test>\r\nCc: team@example.test\r\n")
	fmt.Fprintf(&b, "Subject: Report number %d about the things of the week\r\nDate: Tue, 3 Nov 2026 10:%02d:%02d +0100\r\n", i, i/60%60, i%60)
	fmt.Fprintf(&b, "Message-ID: <%d.report@example.org>\r\nIn-Reply-To: <%d.report@example.org>\r\nReferences: <1.report@example.org>\r\n\t<%d.report@example.org>\r\n", i, i-1, i-1)
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nUser-Agent: Example/1.0\r\nX-Spam-Status: No, score=-1.0\r\n\r\n")
	for line := 0; b.Len() < size; line++ {
		fmt.Fprintf(&b, "Line %d of message %d says that the quick brown fox jumps over the lazy dog.\r\n", line, i)
	}
	return b.Bytes()
}

// fill delivers n messages to eva.
func (f *fixture) fill(n, size int) {
	f.t.Helper()
	for i := range n {
		res, err := f.boxes.Deliver(context.Background(), &mailbox.Delivery{
			Message: benchMessage(i, size), Recipients: []mailbox.DeliveryRecipient{{Account: "eva@example.test"}},
		})
		if err != nil || res[0].Err != nil {
			f.t.Fatal(err, res)
		}
	}
}

// drain sends a command and reads to its tagged answer, counting octets.
func (c *client) drain(command string) (octets int64) {
	c.send("zz9 " + command + "\r\n")
	end := []byte("\r\nzz9 ")
	var keep []byte
	buf := make([]byte, 256<<10)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			c.t.Fatal(err)
		}
		octets += int64(n)
		keep = append(keep, buf[max(0, n-200):n]...)
		if i := bytes.LastIndex(keep, end); i >= 0 && bytes.HasSuffix(keep, []byte("\r\n")) {
			if !bytes.HasPrefix(keep[i+len(end):], []byte("OK")) {
				c.t.Fatalf("%s: %q", command, keep[i:])
			}
			return octets
		}
		keep = append(keep[:0], keep[max(0, len(keep)-200):]...)
	}
}

func benchFetch(b *testing.B, size int, command string) {
	f := start(b, nil)
	f.fill(benchMessages, size)
	c := f.login("eva@example.test")
	c.do("SELECT INBOX")
	c.conn.SetDeadline(noDeadline)
	b.SetBytes(c.drain(command))
	b.ReportAllocs()
	for b.Loop() {
		c.drain(command)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchMessages, "ns/message")
}

func BenchmarkFetchHeaders(b *testing.B) {
	benchFetch(b, 4<<10, "FETCH 1:* (FLAGS UID INTERNALDATE RFC822.SIZE ENVELOPE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT MESSAGE-ID REFERENCES CONTENT-TYPE)])")
}

func BenchmarkFetchFlags(b *testing.B) { benchFetch(b, 1<<10, "UID FETCH 1:* (FLAGS)") }

func BenchmarkFetchBodies(b *testing.B) { benchFetch(b, 16<<10, "FETCH 1:* BODY.PEEK[]") }

func BenchmarkSearchBody(b *testing.B) { benchFetch(b, 16<<10, "SEARCH BODY elephant") }

func BenchmarkStore(b *testing.B) {
	f := start(b, nil)
	f.fill(benchMessages, 1<<10)
	c := f.login("eva@example.test")
	c.do("SELECT INBOX")
	c.conn.SetDeadline(noDeadline)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		c.drain("STORE 1:* " + []string{"+", "-"}[i%2] + `FLAGS (\Flagged)`)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchMessages, "ns/message")
}

func BenchmarkAppend(b *testing.B) {
	f := start(b, nil)
	text := string(benchMessage(1, 8<<10))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c := f.login("eva@example.test")
		c.conn.SetDeadline(noDeadline)
		head := fmt.Sprintf("x APPEND INBOX (\\Seen) {%d}\r\n", len(text))
		for pb.Next() {
			io.WriteString(c.conn, head)
			if line, err := c.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+") {
				b.Error(line, err)
				return
			}
			io.WriteString(c.conn, text+"\r\n")
			if line, err := c.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "x OK") {
				b.Error(line, err)
				return
			}
		}
	})
}

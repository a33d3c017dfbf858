package smtp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// endOfData are the sequences that one server or another has taken for the end
// of DATA.
var endOfData9 = []string{
	"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\r\n.\r\r\n", "\r\n\x00.\r\n", "\r\n.\x00\r\n",
}

// talk sends input at once and returns all that the server says until it
// closes.
func talk(t testing.TB, addr, input string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	go func() {
		io.WriteString(nc, input)
		nc.(*net.TCPConn).CloseWrite()
	}()
	out, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestSmugglingIn sends a message with each false end of data and a second
// message behind it (threat S1). There is one message or none.
func TestSmugglingIn(t *testing.T) {
	for _, normal := range []bool{false, true} {
		for _, lmtp := range []bool{false, true} {
			for _, end := range endOfData9 {
				t.Run(fmt.Sprintf("%q normalize=%v lmtp=%v", end, normal, lmtp), func(t *testing.T) {
					s := &sink{}
					addr, _ := listen(t, testConfig(s, func(c *ServerConfig) {
						if normal {
							c.LineEnds = func(netip.AddrPort) LineEnds { return NormalizeBare }
						}
						if lmtp {
							c.Protocol = LMTP
						}
					}))
					hello := "EHLO"
					if lmtp {
						hello = "LHLO"
					}
					out := talk(t, addr, hello+" client.example.net\r\nMAIL FROM:<ann@example.net>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n"+
						"Subject: first\r\n\r\ntext"+end+
						"MAIL FROM:<smuggler@example.net>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\nSubject: second\r\n\r\ntext\r\n.\r\nQUIT\r\n")
					for _, call := range s.seen() {
						if strings.Contains(call, "smuggler") {
							t.Errorf("the second message was taken: %q", s.seen())
						}
					}
					got := s.got()
					if !normal || strings.Contains(end, "\x00") {
						if len(got) != 0 || !strings.Contains(out, "550 5.5.2 ") {
							t.Errorf("%d messages; %q", len(got), out)
						}
						return
					}
					if len(got) != 1 || !strings.Contains(got[0].body, "second") {
						t.Fatalf("%+v", got)
					}
					checkStrict(t, got[0].body)
				})
			}
		}
	}
}

// checkStrict fails unless every CR and LF of s is part of CRLF and there is
// no NUL.
func checkStrict(t testing.TB, s string) {
	t.Helper()
	for i := range len(s) {
		switch {
		case s[i] == 0:
			t.Errorf("NUL at %d of %.200q", i, s)
		case s[i] == '\n' && (i == 0 || s[i-1] != '\r'), s[i] == '\r' && (i+1 == len(s) || s[i+1] != '\n'):
			t.Errorf("bare octet at %d of %.200q", i, s)
		}
	}
}

// capture is a server that takes one connection's octets as they come and
// answers by the script of a permissive server.
func capture(t testing.TB, extensions string) (addr string, bytes func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		r := bufio.NewReader(io.TeeReader(nc, &b))
		io.WriteString(nc, "220 x\r\n")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			verb, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch verb {
			case "EHLO", "LHLO":
				io.WriteString(nc, "250-x\r\n"+extensions+"250 8BITMIME\r\n")
			case "DATA":
				io.WriteString(nc, "354 go\r\n")
				for line != ".\r\n" {
					if line, err = r.ReadString('\n'); err != nil {
						return
					}
				}
				io.WriteString(nc, "250 ok\r\n")
			case "BDAT":
				var n int
				fmt.Sscan(arg, &n)
				r.Discard(n)
				io.WriteString(nc, "250 ok\r\n")
			default:
				io.WriteString(nc, "250 ok\r\n")
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), func() string {
		l.Close()
		<-done
		return b.String()
	}
}

// TestSmugglingOut gives the client messages and envelopes with octets that
// must not leave (threat S2), through DATA and BDAT, cut at every place.
func TestSmugglingOut(t *testing.T) {
	bad := []string{"a\rb\r\n", "a\nb\r\n", "a\r\r\n", "\n", "a\r\n\n", "a\x00\r\n", "a\r", "\r\n.\n", "a\r\n.\r", "x\n.\r\n", "a\rb\n", "\n\r"}
	for _, bdat := range []bool{false, true} {
		addr, sent := capture(t, "250-PIPELINING\r\n250-CHUNKING\r\n")
		c := dialTest(t, addr, ClientConfig{})
		for _, body := range bad {
			for cut := 0; cut <= len(body); cut++ {
				tr := transactionTo(t, "", "bob@example.com")
				tr.Body, tr.UseBDAT = [][]byte{[]byte(body[:cut]), nil, []byte(body[cut:])}, bdat
				res, err := c.Send(context.Background(), tr)
				if err != nil || res.Final(0) == nil || res.Final(0).Code != 550 || res.Sent {
					t.Fatalf("%q: %+v, %v", body, res, err)
				}
			}
		}
		good := transactionTo(t, "a\r\n.\r\nb", "bob@example.com")
		good.UseBDAT = bdat
		if res, err := c.Send(context.Background(), good); err != nil || !res.Final(0).OK() {
			t.Fatalf("%+v, %v", res, err)
		}
		c.Close()
		checkStrict(t, sent())
	}
}

// TestRelayStrict takes mail with BDAT and bare octets from a listed peer and
// hands it on with DATA and BDAT (threat S2): what leaves is strict.
func TestRelayStrict(t *testing.T) {
	for _, bdat := range []bool{false, true} {
		out, sent := capture(t, "250-PIPELINING\r\n250-CHUNKING\r\n")
		c := dialTest(t, out, ClientConfig{})
		s := &sink{data: func(m *Message) []*Reply {
			tr := transactionTo(t, string(m.Bytes), "bob@example.com")
			tr.UseBDAT = bdat
			res, err := c.Send(context.Background(), tr)
			if err != nil {
				t.Error(err)
			}
			return []*Reply{res.Final(0)}
		}}
		addr, _ := listen(t, testConfig(s, func(c *ServerConfig) {
			c.LineEnds = func(netip.AddrPort) LineEnds { return NormalizeBare }
		}))
		body := "a\nb\rc\r\n.\r\n\n.\r\n.\nMAIL FROM:<x@example.net>\r"
		got := talk(t, addr, fmt.Sprintf("EHLO a\r\nMAIL FROM:<ann@example.net>\r\nRCPT TO:<bob@example.com>\r\n"+
			"BDAT 3\r\n%sBDAT %d LAST\r\n%sQUIT\r\n", body[:3], len(body)-3, body[3:]))
		if !strings.Contains(got, "\r\n250 2.0.0 ok\r\n221") {
			t.Errorf("%q", got)
		}
		c.Close()
		wire := sent()
		checkStrict(t, wire)
		if n := strings.Count(wire, "MAIL FROM:<x"); n != 1 {
			t.Errorf("%d in %q", n, wire)
		}
	}
}

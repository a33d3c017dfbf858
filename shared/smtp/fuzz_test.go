package smtp

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// feed is a connection that is fed octets in pieces and remembers the answers.
type feed struct {
	in   []byte
	step int
	out  bytes.Buffer
}

func (f *feed) Read(b []byte) (int, error) {
	if len(f.in) == 0 {
		return 0, io.EOF
	}
	n := min(len(b), len(f.in), f.step)
	copy(b, f.in[:n])
	f.in = f.in[n:]
	return n, nil
}
func (f *feed) Write(b []byte) (int, error)      { return f.out.Write(b) }
func (f *feed) Close() error                     { return nil }
func (f *feed) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (f *feed) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (f *feed) SetDeadline(time.Time) error      { return nil }
func (f *feed) SetReadDeadline(time.Time) error  { return nil }
func (f *feed) SetWriteDeadline(time.Time) error { return nil }

// checkSession fails the test when a session is given what it must never see.
type checkSession struct {
	sinkSession
	t    *testing.T
	open bool
}

func (s *checkSession) Hello(ctx context.Context, c *ConnInfo) error {
	if !plain(c.Helo) || c.Helo == "" {
		s.t.Errorf("Helo %q", c.Helo)
	}
	return s.sinkSession.Hello(ctx, c)
}

func (s *checkSession) Auth(ctx context.Context, mech, authz, user, password string) (string, error) {
	if !isText(user) || !isText(authz) || strings.Contains(password, "\x00") {
		s.t.Errorf("Auth %q %q %q", authz, user, password)
	}
	return s.sinkSession.Auth(ctx, mech, authz, user, password)
}

func (s *checkSession) path(a mail.Address) {
	if !a.IsNull() && !sendable(a) {
		s.t.Errorf("address %+v", a)
	}
}

func (s *checkSession) Mail(ctx context.Context, m *MailArgs) error {
	s.path(m.From)
	if s.open || !isText(m.EnvelopeID) || !isText(m.Auth) || !privateOK(m.Private) {
		s.t.Errorf("Mail %+v, open %v", m, s.open)
	}
	err := s.sinkSession.Mail(ctx, m)
	s.open = err == nil
	return err
}

func (s *checkSession) Rcpt(ctx context.Context, r *RcptArgs) error {
	s.path(r.To)
	if !s.open || r.To.IsNull() || !isText(r.OriginalRecipient) || !privateOK(r.Private) {
		s.t.Errorf("Rcpt %+v, open %v", r, s.open)
	}
	return s.sinkSession.Rcpt(ctx, r)
}

func (s *checkSession) Data(ctx context.Context, m *Message) []*Reply {
	if !s.open || len(s.cur.rcpts) == 0 {
		s.t.Error("Data without recipients")
	}
	var look inspector
	look.add(m.Bytes)
	if f := look.end(); f.bare || f.nul || f.eightBit != m.EightBit || len(m.Bytes) > 0 && !bytes.HasSuffix(m.Bytes, crlf) {
		s.t.Errorf("message %q %+v", m.Bytes, f)
	}
	checkStrict(s.t, string(m.Bytes))
	return s.sinkSession.Data(ctx, m)
}

func (s *checkSession) Reset() { s.open = false }

// FuzzServer sends anything to a server, in pieces of any size. No session sees
// what it must not, every line of the answers is a reply, and the size of the
// pieces makes no difference.
func FuzzServer(f *testing.F) {
	for _, s := range []string{
		"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<\"c d\"@e>\r\nDATA\r\nx\r\n..\r\n.\r\nQUIT\r\n",
		"LHLO a\r\nMAIL FROM:<> SIZE=1 XA=+41\r\nRCPT TO:<a@b> ORCPT=rfc822;x NOTIFY=NEVER\r\nBDAT 3\r\n\r\nxBDAT 0 LAST\r\n",
		"EHLO a\r\nAUTH PLAIN AGFubgBzZWNyZXQ=\r\nMAIL FROM:<ö@b> SMTPUTF8\r\nRSET\r\nAUTH LOGIN\r\n*\r\nVRFY\r\n",
		"NOOP\nNOOP\r\n\r\x00\r\n" + strings.Repeat("x", 600) + "\r\nSTARTTLS\r\nXCLIENT ADDR=::1\r\nBDAT x\r\n",
		"HELO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\na\nb\r.\r\r\n.\r\nMAIL FROM:<a@b>\r\nDATA\r\nx",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nEHLO a\r\n",
		"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nx\r\nx",
	} {
		f.Add([]byte(s), byte(7), byte(0))
		f.Add([]byte(s), byte(1), byte(3))
		f.Add([]byte(s), byte(0), byte(0))
	}
	f.Fuzz(func(t *testing.T, in []byte, step, mode byte) {
		run := func(step int) (string, []string) {
			s := &sink{}
			cfg := testConfig(s, func(c *ServerConfig) {
				c.Limits = Limits{Line: 512, Size: 2000, Header: 500, Errors: 10, Recipients: 3}
				c.Mechanisms, c.PlainWithoutTLS = []string{"PLAIN", "LOGIN"}, everybody
				c.Private, c.PrivateMail, c.PrivateRcpt = "X 1", []string{"XA"}, []string{"XB"}
				c.PrivateFor = func(*ConnInfo) bool { return true }
				c.TrustXCLIENT = everybody
				if mode&1 != 0 {
					c.Protocol = LMTP
				}
				if mode&2 != 0 {
					c.LineEnds = func(netip.AddrPort) LineEnds { return NormalizeBare }
				}
				if mode&4 != 0 {
					c.TrustProxy = everybody
				}
				c.NewSession = func(_ context.Context, info *ConnInfo) (Session, error) {
					return &checkSession{sinkSession: sinkSession{sink: s, info: info}, t: t}, nil
				}
			})
			conn := &feed{in: bytes.Clone(in), step: step}
			newTestServer(t, cfg).ServeConn(context.Background(), conn)
			return conn.out.String(), s.seen()
		}
		out, calls := run(1 << 20)
		for line := range strings.SplitSeq(strings.TrimSuffix(out, "\r\n"), "\r\n") {
			if _, _, ok := replyHead([]byte(line)); !ok && !strings.HasPrefix(line, "334 ") && out != "" || !isText(line) {
				t.Errorf("reply %q", line)
			}
		}
		if bytes.Contains(in, []byte{'\n'}) && !mayDiffer(in) {
			out2, calls2 := run(int(step)%64 + 1)
			if splitByChunk(in, out, out2) {
				return
			}
			if out2 != out || strings.Join(calls2, "\n") != strings.Join(calls, "\n") {
				t.Errorf("pieces of %d make a difference:\n%q\n%q\n%q\n%q", int(step)%64+1, out, out2, calls, calls2)
			}
		}
	})
}

// mayDiffer reports input for which the size of the pieces matters by design: a
// bare LF ends a session when nothing follows it yet, and so does a refused DATA
// or a STARTTLS that something follows already.
func mayDiffer(in []byte) bool {
	up := bytes.ToUpper(in)
	return bytes.Count(in, crlf) != bytes.Count(in, []byte{'\n'}) || bytes.Contains(up, []byte("DATA")) || bytes.Contains(up, []byte("STARTTLS"))
}

// splitByChunk reports sessions that differ because a chunk of BDAT ended between
// CR and LF: the LF is then a bare one, which ends a session when nothing follows
// it yet.
func splitByChunk(in []byte, whole, pieces string) bool {
	bare := string(appendReply(nil, replyBareLine, false))
	return bytes.Contains(bytes.ToUpper(in), []byte("BDAT")) && pieces != whole && strings.HasSuffix(pieces, bare) && strings.HasPrefix(whole, strings.TrimSuffix(pieces, bare))
}

// slowUndot is the rule of RFC 5321 4.5.2, octet by octet.
func slowUndot(in []byte) (msg, rest []byte, ended bool) {
	lineStart := true
	for i := 0; i < len(in); i++ {
		if lineStart && in[i] == '.' {
			if bytes.HasPrefix(in[i:], []byte(".\r\n")) {
				return msg, in[i+3:], true
			}
			if len(in)-i < 3 && bytes.HasPrefix([]byte(".\r\n"), in[i:]) {
				return msg, nil, false
			}
			lineStart = false
			continue
		}
		msg = append(msg, in[i])
		lineStart = bytes.HasSuffix(in[:i+1], crlf)
	}
	return msg, nil, false
}

// FuzzData compares the reader of DATA with the slow rule, whatever the pieces.
func FuzzData(f *testing.F) {
	for _, s := range []string{"", ".", ".\r\n", "a\r\n.\r\nNOOP\r\n", "..\r\n.\r\n", "a\n.\r\n\r\n.\r\n", "a\r.\r\n\r\n..a\r\n.\r\n", "\r\n.\r\r\n.\r\n", ".\n\r\n.\r\nx"} {
		for _, step := range []byte{0, 1, 2, 3, 200} {
			f.Add([]byte(s), step)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, step byte) {
		cfg := testConfig(&sink{}, func(c *ServerConfig) { c.LineEnds = func(netip.AddrPort) LineEnds { return NormalizeBare } })
		srv := newTestServer(t, cfg)
		c := &conn{srv: srv, cfg: srv.cfg.Load(), limits: &srv.cfg.Load().Limits, ctx: context.Background()}
		c.nc = &feed{in: bytes.Clone(in), step: int(step) + 1}
		c.raw = c.nc
		c.sessionEnd = time.Now().Add(time.Hour)
		c.in.open(lineBuffer)
		defer c.in.close()
		m := &c.tx.incoming
		if err := c.openBody(m); err != nil {
			t.Fatal(err)
		}
		defer m.drop()
		// A part of the input is buffered before, as pipelining has it.
		c.in.w, _ = c.nc.Read(c.in.buf[:min(len(c.in.buf), int(step)/2+1)])
		err := c.readDotted(m)
		want, rest, ended := slowUndot(in)
		if (err == nil) != ended {
			t.Fatalf("ended %v, want %v", err, ended)
		}
		if err != nil {
			return
		}
		got := m.buf.b[:m.n]
		if !bytes.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		if left := append(bytes.Clone(c.in.window()), c.nc.(*feed).in...); !bytes.Equal(left, rest) {
			t.Fatalf("left %q, want %q", left, rest)
		}
		var look inspector
		look.add(want)
		found := look.end()
		if r := c.finish(m); (r != nil) != found.nul && headerLen(want, 300<<10) <= 256<<10 {
			t.Fatalf("finish %v, found %+v", r, found)
		} else if r == nil {
			checkStrict(t, string(c.tx.msg.Bytes))
			if !found.bare && !bytes.Equal(c.tx.msg.Bytes, want) {
				t.Fatalf("changed to %q", c.tx.msg.Bytes)
			}
		}
	})
}

// FuzzBody sends any body through client and server, cut in two anywhere: it
// arrives as it was, or was refused for a bare octet.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"", ".", ".\r\n", "\r\n.\r\n", "a\r\n..\r\n.", "a\n", "\r", "a\x00"} {
		f.Add([]byte(s), 1, true)
		f.Add([]byte(s), 3, false)
	}
	s := &sink{}
	addr, _ := listen(f, testConfig(s, func(c *ServerConfig) { c.Limits.Transactions = 1 << 40 }))
	var c *Client
	f.Fuzz(func(t *testing.T, body []byte, cut int, bdat bool) {
		if c == nil {
			var err error
			if c, err = Dial(context.Background(), addr, ClientConfig{}); err != nil {
				t.Fatal(err)
			}
		}
		cut = max(0, min(cut, len(body)))
		tr := transactionTo(t, "", "bob@example.com")
		tr.Body, tr.UseBDAT = [][]byte{body[:cut], body[cut:]}, bdat
		s.mu.Lock()
		s.messages, s.calls = nil, nil
		s.mu.Unlock()
		res, err := c.Send(context.Background(), tr)
		if err != nil {
			t.Fatal(err)
		}
		strict := bytes.Count(body, crlf) == bytes.Count(body, crByte) && bytes.Count(body, crlf) == bytes.Count(body, []byte{'\n'}) &&
			bytes.IndexByte(body, 0) < 0
		if strict != res.Final(0).OK() {
			t.Fatalf("%q: %v", body, res.Final(0))
		}
		got := s.got()
		if !strict {
			if len(got) != 0 {
				t.Fatalf("%q arrived", body)
			}
			return
		}
		want := string(body)
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		if len(got) != 1 || got[0].body != want {
			t.Fatalf("%q arrived as %+v", body, got)
		}
	})
	if c != nil {
		c.Close()
	}
}

// FuzzReply reads any octets as replies.
func FuzzReply(f *testing.F) {
	f.Add([]byte("250-a\r\n250 b\r\n550 5.1.1 c\r\n421 x\r\n"), byte(1))
	f.Add([]byte("250\r\n25x\r\n250\n"), byte(100))
	f.Fuzz(func(t *testing.T, in []byte, step byte) {
		c := &Client{nc: &feed{in: in, step: int(step) + 1}, ctx: context.Background()}
		c.in.buf = make([]byte, 64)
		for {
			r, err := c.readReply(time.Second)
			if err != nil {
				return
			}
			if r.Code < 200 || r.Code > 599 || strings.ContainsAny(r.Text, "\r\x00") || r.Status != (mail.Status{}) && r.Status[0] != r.Code/100 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

// FuzzParameters reads any octets as what follows a path, PROXY headers and
// XCLIENT attributes, and checks that xtext survives.
func FuzzParameters(f *testing.F) {
	for _, s := range []string{"SIZE=1 BODY=7BIT", "NOTIFY=NEVER ORCPT=rfc822;a+40b", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "ADDR=1.2.3.4 PORT=1", "a+b=ü"} {
		f.Add(s)
	}
	f.Add(proxyV2(0x21, 0x11, "012345678901"))
	f.Fuzz(func(t *testing.T, s string) {
		for rest := s; rest != ""; {
			key, value, _, next, ok := nextParam(rest)
			if !ok {
				break
			}
			if key == "" || !plain(key+value) || len(next) >= len(rest) {
				t.Fatalf("%q: %q %q %q", s, key, value, next)
			}
			rest = next
		}
		if n, ok := parseNotify(s); ok {
			if again, ok := parseNotify(n.String()); !ok || again != n {
				t.Fatalf("%q: %v", s, n)
			}
		}
		if o, ok := parseOrcpt(s); ok && !isText(o) {
			t.Fatalf("%q: %q", s, o)
		}
		if back, ok := decodeXtext(string(appendXtext(nil, s))); ok != isText(s) || ok && back != s {
			t.Fatalf("%q: %q", s, back)
		}
		if n, src, _, err := parseProxyHeader([]byte(s)); err != nil && (n != 0 || src.IsValid()) || n > len(s) {
			t.Fatalf("%q: %d %v %v", s, n, src, err)
		}
		parseXClient(&ConnInfo{XClient: map[string]string{}}, s)
		parseBdat(s)
	})
}

package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/shared/mail"
)

// scripted is a server that follows a script: "C: " lines must arrive, "S: "
// lines are sent, "TLS" starts TLS. What follows in one "S: " block goes in one
// write. It returns when the script or the connection ends.
func scripted(t *testing.T, script string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { nc.Close() }()
		nc.SetDeadline(time.Now().Add(5 * time.Second))
		r := bufio.NewReader(nc)
		var out strings.Builder
		flush := func() { io.WriteString(nc, out.String()); out.Reset() }
		for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
			kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			text = unescape(t, text)
			switch kind {
			case "S:":
				out.WriteString(text + "\r\n")
			case "C:":
				flush()
				got, err := r.ReadString('\n')
				if err != nil || got != text+"\r\n" {
					t.Errorf("server got %q %v, want %q", got, err, text)
					return
				}
			case "TLS":
				flush()
				s := tls.Server(nc, testTLS(t))
				nc, r = s, bufio.NewReader(s)
			}
		}
		flush()
		if r.Buffered() > 0 {
			rest, _ := r.Peek(r.Buffered())
			t.Errorf("server got more: %q", rest)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

const scriptHello = "S: 220 x\nC: EHLO client.example.net\nS: 250-x\n"

// TestPipelined wants all commands before the first reply, and reads the
// replies in order.
func TestPipelined(t *testing.T) {
	addr := scripted(t, scriptHello+`S: 250-SIZE 1000
		S: 250-pipelining
		S: 250-DSN
		S: 250 8BITMIME
		C: MAIL FROM:<"a b"@example.net> SIZE=7 RET=HDRS ENVID=e+2B+3D1
		C: RCPT TO:<bob@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2B@example.com
		C: RCPT TO:<bill@example.com> XA XKEY=a+20b+C3+BC
		C: DATA
		S: 250-2.1.0 first
		S: 250 2.1.0 second
		S: 550 5.1.1 No such user
		S: 250 2.1.5 Ok
		S: 354 go
		C: x
		C: ..y
		C: .
		S: 250 2.0.0 Queued`)
	c := dialTest(t, addr, ClientConfig{})
	tr := transactionTo(t, "", "bob@example.com", "bill@example.com")
	tr.Body = [][]byte{[]byte("x\r\n"), []byte(".y\r\n")}
	tr.Mail = MailArgs{From: mail.Address{Local: "a b", Domain: "example.net"}, Ret: "HDRS", EnvelopeID: "e+=1", Size: 99, Auth: "<>"}
	tr.Rcpts[0].Notify, tr.Rcpts[0].OriginalRecipient = mail.NotifySuccess|mail.NotifyDelay, "rfc822;b+@example.com"
	tr.Rcpts[1].Private = map[string]string{"XKEY": "a bü", "XA": ""}
	res, err := c.Send(context.Background(), tr)
	if err != nil {
		t.Fatal(err)
	}
	if res.Mail.Text != "first\nsecond" || res.Rcpts[0].Status != mail.StatusBadMailbox || finals(res) != "550 250" || !res.Sent || res.Data[0].Text != "Queued" {
		t.Errorf("%+v", res)
	}
}

// TestNotPipelined waits for each reply, stops where the rest is in vain, and
// clears up before the next transaction.
func TestNotPipelined(t *testing.T) {
	addr := scripted(t, scriptHello+`S: 250 HELP
		C: MAIL FROM:<ann@example.net>
		S: 451 4.3.0 later
		C: MAIL FROM:<ann@example.net>
		S: 250 ok
		C: RCPT TO:<bob@example.com>
		S: 550 no
		C: RSET
		S: 250 ok
		C: MAIL FROM:<ann@example.net>
		S: 250 ok
		C: RCPT TO:<bob@example.com>
		S: 250 ok
		C: DATA
		S: 452 full
		C: RSET
		S: 250 ok
		C: MAIL FROM:<ann@example.net>
		S: 250 ok
		C: RCPT TO:<bob@example.com>
		S: 250 ok
		C: DATA
		S: 354 go
		C: x
		C: .
		S: 250 ok
		C: QUIT
		S: 221 bye`)
	c := dialTest(t, addr, ClientConfig{})
	for _, want := range []string{"451", "550", "452", "250"} {
		tr := transactionTo(t, "x\r\n", "bob@example.com")
		tr.Mail.SMTPUTF8, tr.Mail.Body, tr.UseBDAT = true, mail.Body8BitMIME, true
		res, err := c.Send(context.Background(), tr)
		if err != nil || finals(res) != want || res.Sent != (want == "250") {
			t.Fatalf("%s: %+v %v", want, res, err)
		}
	}
	if err := c.Quit(context.Background()); err != nil || c.Usable() {
		t.Error(err)
	}
}

// TestOneFlight sends commands and message together with BDAT.
func TestOneFlight(t *testing.T) {
	addr := scripted(t, strings.ReplaceAll(scriptHello, "EHLO", "LHLO")+`S: 250-PIPELINING
		S: 250 CHUNKING
		C: MAIL FROM:<ann@example.net>
		C: RCPT TO:<a@example.com>
		C: RCPT TO:<b@example.com>
		C: RCPT TO:<c@example.com>
		C: BDAT 7 LAST
		C: .x.
		C:
		S: 250 ok
		S: 250 ok
		S: 550 no
		S: 250 ok
		S: 250 done a
		S: 452 full c
		C: MAIL FROM:<ann@example.net>
		C: RCPT TO:<a@example.com>
		C: BDAT 3 LAST
		C: x
		S: 451 later
		S: 503 x
		S: 503 x
		C: MAIL FROM:<ann@example.net>
		C: RCPT TO:<a@example.com>
		C: BDAT 3 LAST
		C: x
		S: 250 ok
		S: 550 x
		S: 503 x
		C: RSET
		C: MAIL FROM:<ann@example.net>
		C: RCPT TO:<a@example.com>
		C: BDAT 3 LAST
		C: x
		S: 250 ok
		S: 250 ok
		S: 250 ok
		S: 250 ok`)
	c := dialTest(t, addr, ClientConfig{Protocol: LMTP})
	tr := transactionTo(t, ".x.\r\n\r\n", "a@example.com", "b@example.com", "c@example.com")
	tr.UseBDAT = true
	res, err := c.Send(context.Background(), tr)
	if err != nil || finals(res) != "250 550 452" || res.Data[1] != nil || res.Data[2].Text != "full c" {
		t.Fatalf("%+v %v", res, err)
	}
	for _, want := range []string{"451", "550", "250"} {
		tr := transactionTo(t, "x\r\n", "a@example.com")
		tr.UseBDAT = true
		if res, err = c.Send(context.Background(), tr); err != nil || finals(res) != want {
			t.Fatalf("%+v %v", res, err)
		}
	}
}

// TestSegments cuts a message in three anywhere: it arrives the same.
func TestSegments(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s))
	c := dialTest(t, addr, ClientConfig{})
	body := ".a.b\r\n..c\r\n.\r\n\r\n.d"
	n := 0
	for i := range len(body) {
		for j := i; j < len(body); j++ {
			tr := transactionTo(t, "", "bob@example.com")
			tr.Body = [][]byte{[]byte(body[:i]), []byte(body[i:j]), []byte(body[j:])}
			if _, err := c.Send(context.Background(), tr); err != nil {
				t.Fatal(err)
			}
			got := s.got()
			if n++; len(got) != n || got[n-1].body != body+"\r\n" {
				t.Fatalf("cut at %d and %d: %q", i, j, got[n-1].body)
			}
		}
	}
}

// TestLostAnswers ends the connection at each point. What is known and what is
// not must come out right.
func TestLostAnswers(t *testing.T) {
	head := strings.ReplaceAll(scriptHello, "EHLO", "LHLO") + `S: 250 PIPELINING
		C: MAIL FROM:<ann@example.net>
		C: RCPT TO:<a@example.com>
		C: RCPT TO:<b@example.com>
		C: DATA
		`
	for name, tt := range map[string]struct {
		script string
		finals string
		sent   bool
		isErr  bool
	}{
		"nothing":            {"", "nil nil", false, true},
		"after MAIL":         {"S: 250 ok", "nil nil", false, true},
		"421 at MAIL":        {"S: 421 4.3.2 bye", "421 421", false, true},
		"421 at RCPT":        {"S: 250 ok\nS: 250 ok\nS: 421 bye", "421 421", false, true},
		"421 at first RCPT":  {"S: 250 ok\nS: 421 bye", "421 421", false, true},
		"421 at DATA":        {"S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 421 bye", "421 421", false, true},
		"closed at DATA":     {"S: 250 ok\nS: 250 ok\nS: 250 ok", "nil nil", false, true},
		"closed after dot":   {"S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .", "nil nil", true, true},
		"one answer":         {"S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .\nS: 250 ok", "250 nil", true, true},
		"421 for one":        {"S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .\nS: 250 ok\nS: 421 bye", "250 421", true, true},
		"354 without rcpts":  {"S: 250 ok\nS: 550 no\nS: 551 no\nS: 354 go", "550 551", false, false},
		"354 after bad MAIL": {"S: 452 no\nS: 503 no\nS: 503 no\nS: 354 go", "452 452", false, false},
		"odd DATA":           {"S: 250 ok\nS: 550 no\nS: 250 ok\nS: 250 go", "550 451", false, false},
		"garbage":            {"S: 250 ok\nS: HTTP/1.1 200", "nil nil", false, true},
		"mixed codes":        {"S: 250-ok\nS: 550 no", "nil nil", false, true},
		"bare LF":            {"S: 250 ok\\n250 ok", "nil nil", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialTest(t, scripted(t, head+tt.script), ClientConfig{Protocol: LMTP})
			res, err := c.Send(context.Background(), transactionTo(t, "x\r\n", "a@example.com", "b@example.com"))
			if (err != nil) != tt.isErr || finals(res) != tt.finals || res.Sent != tt.sent {
				t.Errorf("%v; finals %s, sent %v", err, finals(res), res.Sent)
			}
			if name != "odd DATA" && c.Usable() {
				t.Error("still usable")
			}
			if _, err := c.Send(context.Background(), transactionTo(t, "x\r\n", "a@example.com")); name != "odd DATA" && !errors.Is(err, ErrUnusable) {
				t.Errorf("sent again: %v", err)
			}
		})
	}
}

// TestLocalRefusals are answers of the client itself; the connection stays.
func TestLocalRefusals(t *testing.T) {
	addr := scripted(t, scriptHello+`S: 250-SIZE 10
		S: 250-PIPELINING
		S: 250 DSN
		C: MAIL FROM:<ann@example.net> SIZE=3
		C: RCPT TO:<bob@example.com>
		C: DATA
		S: 250 ok
		S: 250 ok
		S: 354 go
		C: x
		C: .
		S: 250 ok`)
	c := dialTest(t, addr, ClientConfig{})
	utf8 := mail.Address{Local: "bö", Domain: "example.com"}
	bad := mail.Address{Local: "b", Domain: "example.com> NOTIFY=NEVER"}
	crlf := mail.Address{Local: "b\r\nRSET", Domain: "example.com"}
	for name, tt := range map[string]struct {
		change func(*Transaction)
		want   string
		status mail.Status
	}{
		"too big":       {func(tr *Transaction) { tr.Body = [][]byte{make([]byte, 0), []byte("0123456789\r\n")} }, "552", mail.StatusTooBig},
		"sender UTF-8":  {func(tr *Transaction) { tr.Mail.From = utf8 }, "550", mail.Status{5, 6, 7}},
		"sender domain": {func(tr *Transaction) { tr.Mail.From = bad }, "501", mail.StatusBadSenderSyntax},
		"sender CRLF":   {func(tr *Transaction) { tr.Mail.From = crlf }, "501", mail.StatusBadSenderSyntax},
		"envid":         {func(tr *Transaction) { tr.Mail.EnvelopeID = "a\nb" }, "501", mail.StatusBadSenderSyntax},
		"ret":           {func(tr *Transaction) { tr.Mail.Ret = "X\r\nRSET" }, "501", mail.StatusBadSenderSyntax},
		"private key":   {func(tr *Transaction) { tr.Mail.Private = map[string]string{"A B": ""} }, "501", mail.StatusBadSenderSyntax},
		"private value": {func(tr *Transaction) { tr.Rcpts[0].Private = map[string]string{"A": "\n"} }, "501", mail.StatusBadSyntax},
		"rcpt UTF-8":    {func(tr *Transaction) { tr.Rcpts[0].To = utf8 }, "550", mail.Status{5, 6, 7}},
		"rcpt domain":   {func(tr *Transaction) { tr.Rcpts[0].To = bad }, "501", mail.StatusBadSyntax},
		"rcpt CRLF":     {func(tr *Transaction) { tr.Rcpts[0].To = crlf }, "501", mail.StatusBadSyntax},
		"rcpt null":     {func(tr *Transaction) { tr.Rcpts[0].To = mail.Address{} }, "501", mail.StatusBadSyntax},
		"orcpt":         {func(tr *Transaction) { tr.Rcpts[0].OriginalRecipient = "rfc822;a\r\nb" }, "501", mail.StatusBadSyntax},
		"orcpt type":    {func(tr *Transaction) { tr.Rcpts[0].OriginalRecipient = "a b;a" }, "501", mail.StatusBadSyntax},
	} {
		tr := transactionTo(t, "x\r\n", "bob@example.com")
		tt.change(tr)
		res, err := c.Send(context.Background(), tr)
		if err != nil || finals(res) != tt.want || res.Final(0).Status != tt.status || res.Sent || !c.Usable() {
			t.Errorf("%s: %s %+v %v", name, finals(res), res.Final(0), err)
		}
	}
	tr := transactionTo(t, "x\r\n", "b@example.com", "bob@example.com")
	tr.Rcpts[0].To = utf8
	if res, err := c.Send(context.Background(), tr); err != nil || finals(res) != "550 250" {
		t.Errorf("%s %v", finals(res), err)
	}
}

// TestSMTPUTF8 sends the parameter when an address or the message needs it.
func TestSMTPUTF8(t *testing.T) {
	addr := scripted(t, scriptHello+`S: 250-PIPELINING
		S: 250 SMTPUTF8
		C: MAIL FROM:<ann@example.net> SMTPUTF8
		C: RCPT TO:<bö@example.com>
		C: DATA
		S: 451 ok
		S: 503 ok
		S: 503 ok`)
	c := dialTest(t, addr, ClientConfig{})
	tr := transactionTo(t, "x\r\n", "bö@example.com")
	if res, err := c.Send(context.Background(), tr); err != nil || finals(res) != "451" {
		t.Errorf("%s %v", finals(res), err)
	}
}

// TestManyRecipients has more recipients than are sent at once.
func TestManyRecipients(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) { c.Protocol, c.Limits.Recipients = LMTP, 2500 }))
	c := dialTest(t, addr, ClientConfig{Protocol: LMTP})
	var to []string
	for i := range 3000 {
		name := "user"
		if i%7 == 0 {
			name = "later"
		}
		to = append(to, fmt.Sprintf("%s%d@example.com", name, i))
	}
	res, err := c.Send(context.Background(), transactionTo(t, "x\r\n", to...))
	if err != nil {
		t.Fatal(err)
	}
	count := map[int]int{}
	for i := range to {
		count[res.Final(i).Code]++
		want := 250
		if i >= 2917 {
			want = 452
		} else if i%7 == 0 {
			want = 451
		}
		if res.Final(i).Code != want {
			t.Fatalf("recipient %d: %v", i, res.Rcpts[i])
		}
	}
	if count[250] != 2500 || count[451] != 417 || count[452] != 83 {
		t.Errorf("%v", count)
	}
}

// TestClientStartTLS covers what a peer, or one who stands between, can do to
// STARTTLS.
func TestClientStartTLS(t *testing.T) {
	inject := scriptHello + "S: 250 STARTTLS\nC: STARTTLS\n"
	for name, tt := range map[string]struct {
		script  string
		require bool
		want    error
		ok      bool
	}{
		"injected reply":        {inject + "S: 220 go\nS: 250 injected", false, ErrProtocol, false},
		"stripped, required":    {scriptHello + "S: 250 SIZE", true, ErrNoTLS, false},
		"stripped, not needed":  {scriptHello + "S: 250 SIZE", false, nil, true},
		"refused, required":     {inject + "S: 454 no", true, ErrNoTLS, false},
		"refused, not needed":   {inject + "S: 454 no", false, nil, true},
		"forgets the EHLO":      {inject + "S: 220 go\nTLS\nC: EHLO client.example.net\nS: 250-x\nS: 250 SIZE 5", true, nil, true},
		"banner refuses":        {"S: 554 5.7.1 go away", false, nil, false},
		"no EHLO, required":     {"S: 220 x\nC: EHLO client.example.net\nS: 500 what", true, nil, false},
		"no EHLO, not required": {"S: 220 x\nC: EHLO client.example.net\nS: 500 what\nC: HELO client.example.net\nS: 250 x", false, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Dial(context.Background(), scripted(t, tt.script), ClientConfig{
				Hello: "client.example.net", TLS: testClientTLS(t, false), RequireTLS: tt.require,
			})
			if (err == nil) != tt.ok || tt.want != nil && !errors.Is(err, tt.want) {
				t.Fatalf("%v", err)
			}
			if err != nil {
				return
			}
			defer c.Close()
			if _, ok := c.Extension("STARTTLS"); name == "forgets the EHLO" && (ok || c.TLS() == nil) {
				t.Error("extensions of before TLS")
			}
		})
	}
}

// TestNoPasswordInTheClear is a peer that is not on loopback and has no TLS.
func TestNoPasswordInTheClear(t *testing.T) {
	a, b := net.Pipe()
	go func() {
		r := bufio.NewReader(a)
		io.WriteString(a, "220 x\r\n")
		r.ReadString('\n')
		io.WriteString(a, "250-x\r\n250 AUTH PLAIN LOGIN\r\n")
		if l, err := r.ReadString('\n'); err == nil {
			t.Errorf("client said %q", l)
		}
	}()
	c, err := NewClient(context.Background(), b, "x", ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"PLAIN", "LOGIN"} {
		if err := c.Auth(context.Background(), m, "ann", "secret"); !errors.Is(err, ErrClearPwd) {
			t.Errorf("%s: %v", m, err)
		}
	}
	c.Close()
}

// TestClientLogin is LOGIN, and a peer that asks one question too many.
func TestClientLogin(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) {
		c.Mechanisms, c.PlainWithoutTLS = []string{"PLAIN", "LOGIN"}, everybody
	}))
	c := dialTest(t, addr, ClientConfig{})
	if err := c.Auth(context.Background(), "LOGIN", "ann", "secret"); err != nil {
		t.Error(err)
	}
	odd := scripted(t, scriptHello+`S: 250 AUTH PLAIN
		C: AUTH PLAIN AGFubgBzZWNyZXQ=
		S: 334 more
		C: *
		S: 501 cancelled
		C: NOOP
		S: 250 ok`)
	c = dialTest(t, odd, ClientConfig{})
	var r *Reply
	if err := c.Auth(context.Background(), "PLAIN", "ann", "secret"); !errors.As(err, &r) || r.Code != 501 || !c.Usable() {
		t.Error(err)
	}
	if err := c.Noop(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestEarlyRefusal is a server that closes before it has the whole message.
func TestEarlyRefusal(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) { c.Limits.Size = 1000 }))
	c := dialTest(t, addr, ClientConfig{})
	delete(c.ext, "SIZE")
	res, err := c.Send(context.Background(), transactionTo(t, strings.Repeat("x", 40<<20)+"\r\n", "bob@example.com"))
	if err == nil || res.Sent || c.Usable() {
		t.Errorf("%v, sent %v", err, res.Sent)
	}
	if r := res.Final(0); r != nil && r.Code != 552 {
		t.Errorf("%v", r)
	}
}

// TestUsable is a peer that takes its leave between two transactions.
func TestUsable(t *testing.T) {
	s := &sink{}
	addr, srv := listen(t, testConfig(s))
	c := dialTest(t, addr, ClientConfig{})
	if _, err := c.Send(context.Background(), transactionTo(t, "x\r\n", "bob@example.com")); err != nil || !c.Usable() {
		t.Fatalf("usable %v, %v", c.Usable(), err)
	}
	srv.Shutdown(t.Context())
	if c.Usable() {
		t.Error("usable after the peer has left")
	}
	c = dialTest(t, scripted(t, scriptHello+"S: 250 SIZE\nC: NOOP\nS: 250 ok\nS: 421 bye"), ClientConfig{})
	if err := c.Noop(context.Background()); err != nil || c.Usable() {
		t.Errorf("usable with an answer that nobody asked for: %v", err)
	}
	c.Close()
	if c.Usable() {
		t.Error("usable after Close")
	}
}

// TestSimplePath: an address that is sent without a look at the grammar would
// pass it.
func TestSimplePath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.OneOf(rapid.StringMatching(`[aZ0.\-_ ü]{0,12}`), rapid.StringMatching(`([a-z0-9-]{60,64}\.?){1,4}`))
		a := mail.Address{Local: part.Draw(t, "local"), Domain: part.Draw(t, "domain")}
		if !simplePath(a) {
			return
		}
		back, rest, err := mail.ParsePath(a.Path(), false)
		if err != nil || rest != "" || back.Local != a.Local || !strings.EqualFold(back.Domain, a.Domain) {
			t.Fatalf("%+v: %+v %q %v", a, back, rest, err)
		}
		if got := string(appendPath(nil, a)); got != a.Path() {
			t.Fatalf("%q, want %q", got, a.Path())
		}
	})
}

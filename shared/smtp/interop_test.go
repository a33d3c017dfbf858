package smtp

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/shared/mail"
)

// The independent peer of these tests is go-smtp, as client and as server.

func TestPeerClient(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) {
		c.TLS, c.Mechanisms, c.RequireTLS = testTLS(t), []string{"PLAIN", "LOGIN"}, true
	}))
	c, err := gosmtp.DialStartTLS(addr, testClientTLS(t, false))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", "ann", "secret")); err != nil {
		t.Fatal(err)
	}
	if n, ok := c.MaxMessageSize(); !ok || n != 50<<20 {
		t.Errorf("SIZE %d %v", n, ok)
	}
	err = c.Mail("ann@example.net", &gosmtp.MailOptions{
		Body: gosmtp.Body8BitMIME, Size: 123, UTF8: true, Return: gosmtp.DSNReturnHeaders, EnvelopeID: "a+b=c",
	})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Rcpt("böb@example.com", &gosmtp.RcptOptions{
		Notify:                []gosmtp.DSNNotify{gosmtp.DSNNotifyDelayed, gosmtp.DSNNotifySuccess},
		OriginalRecipientType: gosmtp.DSNAddressTypeRFC822, OriginalRecipient: "b+b@example.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	var refused *gosmtp.SMTPError
	if err := c.Rcpt("unknown@example.com", nil); !errors.As(err, &refused) || refused.Code != 550 || refused.EnhancedCode != (gosmtp.EnhancedCode{5, 1, 1}) {
		t.Errorf("refusal %v", err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	body := "Subject: ü\r\n\r\n.\r\n..x\r\n"
	io.WriteString(w, body)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
	got := s.got()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	m := got[0]
	if m.body != body || !m.eight || m.user != "ann" || m.from.Size != 123 || m.from.Body != mail.Body8BitMIME ||
		!m.from.SMTPUTF8 || m.from.Ret != "HDRS" || m.from.EnvelopeID != "a+b=c" {
		t.Errorf("%+v", m)
	}
	r := m.rcpts[0]
	if r.To.Local != "böb" || r.Notify != mail.NotifyDelay|mail.NotifySuccess || !strings.EqualFold(r.OriginalRecipient, "rfc822;b+b@example.com") {
		t.Errorf("%+v", r)
	}
}

func TestPeerClientLMTP(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) { c.Protocol = LMTP }))
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := gosmtp.NewClientLMTP(nc)
	defer c.Close()
	if err := c.Mail("", nil); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"a@example.com", "full@example.com", "b@example.com"} {
		if err := c.Rcpt(to, nil); err != nil {
			t.Fatal(err)
		}
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "x\r\n")
	answers, err := w.CloseWithLMTPResponse()
	var refused gosmtp.LMTPDataError
	if len(answers) != 2 || !errors.As(err, &refused) || refused["full@example.com"] == nil || refused["full@example.com"].Code != 452 {
		t.Errorf("%v, %v", answers, err)
	}
}

// peerBackend is a go-smtp server that remembers what it was given.
type peerBackend struct {
	from string
	opts gosmtp.MailOptions
	to   []string
	rcpt []gosmtp.RcptOptions
	body string
}

func (b *peerBackend) NewSession(*gosmtp.Conn) (gosmtp.Session, error) { return b, nil }
func (b *peerBackend) Reset()                                          {}
func (b *peerBackend) Logout() error                                   { return nil }
func (b *peerBackend) AuthMechanisms() []string                        { return []string{sasl.Plain} }

func (b *peerBackend) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "ann" || password != "secret" {
			return errors.New("no")
		}
		return nil
	}), nil
}

func (b *peerBackend) Mail(from string, o *gosmtp.MailOptions) error {
	b.from, b.opts = from, *o
	return nil
}

func (b *peerBackend) Rcpt(to string, o *gosmtp.RcptOptions) error {
	if strings.HasPrefix(to, "unknown") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "No such user"}
	}
	b.to, b.rcpt = append(b.to, to), append(b.rcpt, *o)
	return nil
}

func (b *peerBackend) Data(r io.Reader) error {
	body, err := io.ReadAll(r)
	b.body = string(body)
	return err
}

func (b *peerBackend) LMTPData(r io.Reader, status gosmtp.StatusCollector) error {
	err := b.Data(r)
	for _, to := range b.to {
		if strings.HasPrefix(to, "full") {
			status.SetStatus(to, &gosmtp.SMTPError{Code: 452, EnhancedCode: gosmtp.EnhancedCode{4, 2, 2}, Message: "Full"})
		} else {
			status.SetStatus(to, nil)
		}
	}
	return err
}

// peerServer runs go-smtp until the test ends.
func peerServer(t *testing.T, b *peerBackend, lmtp bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := gosmtp.NewServer(b)
	s.Domain, s.LMTP, s.EnableSMTPUTF8, s.EnableDSN = "mx.example.com", lmtp, true, true
	s.TLSConfig = testTLS(t)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
		s.Close()
		<-done
	})
	return l.Addr().String()
}

func TestPeerServer(t *testing.T) {
	body := ".\r\nSubject: ü\r\n\r\n..x\r\n.\r\nend"
	for _, proto := range []Protocol{SMTP, LMTP} {
		for _, bdat := range []bool{false, true} {
			b := &peerBackend{}
			addr := peerServer(t, b, proto == LMTP)
			c := dialTest(t, addr, ClientConfig{Protocol: proto, TLS: testClientTLS(t, false), RequireTLS: true})
			if c.TLS() == nil {
				t.Error("no TLS")
			}
			ctx := context.Background()
			if err := c.Auth(ctx, "PLAIN", "ann", "wrong"); err == nil {
				t.Error("wrong password accepted")
			}
			if err := c.Auth(ctx, "PLAIN", "ann", "secret"); err != nil {
				t.Error(err)
			}
			tr := transactionTo(t, body, "full@example.com", "unknown@example.com", "böb@example.com")
			tr.UseBDAT = bdat
			tr.Mail.Ret, tr.Mail.EnvelopeID = "FULL", "a+b=c"
			tr.Rcpts[2].Notify, tr.Rcpts[2].OriginalRecipient = mail.NotifyFailure, "rfc822;b+b@example.com"
			res, err := c.Send(ctx, tr)
			if err != nil {
				t.Fatal(err)
			}
			want := "452 550 250"
			if proto == SMTP {
				want = "250 550 250"
			}
			if got := finals(res); got != want {
				t.Errorf("%v %v: replies %s, want %s", proto, bdat, got, want)
			}
			if res.Rcpts[1].Status != mail.StatusBadMailbox || res.Rcpts[1].Text != "No such user" {
				t.Errorf("refusal %+v", res.Rcpts[1])
			}
			if b.body != body+"\r\n" || b.from != "ann@example.net" || b.opts.EnvelopeID != "a+b=c" || b.opts.Body != gosmtp.Body8BitMIME ||
				!b.opts.UTF8 || b.opts.Return != gosmtp.DSNReturnFull || b.opts.Size != int64(len(body)+2) {
				t.Errorf("%+v", b)
			}
			if b.to[1] != "böb@example.com" || b.rcpt[1].OriginalRecipient != "b+b@example.com" || len(b.rcpt[1].Notify) != 1 {
				t.Errorf("%+v", b)
			}
			if err := c.Noop(ctx); err != nil {
				t.Error(err)
			}
			if err := c.Quit(ctx); err != nil {
				t.Error(err)
			}
		}
	}
}

package smtpd

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/message"
	"github.com/postern-mail/postern/shared/smtp"
)

var (
	replyAuthFirst = &smtp.Reply{Code: 530, Status: mail.Status{5, 7, 0}, Text: "Authentication required"}
	replyNoAuth    = &smtp.Reply{Code: 503, Status: mail.StatusInvalidCommand, Text: "Authentication not enabled"}
	replyBadAuth   = &smtp.Reply{Code: 535, Status: mail.Status{5, 7, 8}, Text: "Authentication credentials invalid"}
	replyAuthFail  = &smtp.Reply{Code: 454, Status: mail.Status{4, 7, 0}, Text: "Temporary authentication failure"}
)

// session is one connection.
type session struct {
	cfg     *Config
	c       *smtp.ConnInfo
	release func()
	filters []transaction.Follower
	tx      *transaction.Transaction
	from    mail.Address
	mech    string // SASL mechanism of the login
}

var _ smtp.Session = (*session)(nil)

// open shows the client to the filters.
func (s *session) open(ctx context.Context) *smtp.Reply {
	for _, f := range s.cfg.Filters {
		follower, err := f.Open(ctx, s.client())
		if err != nil {
			return smtp.ReplyFor(err)
		}
		s.filters = append(s.filters, transaction.Follower{Name: f.Name(), Session: follower})
	}
	return nil
}

// client is whom filters hear of.
func (s *session) client() *policy.Client {
	return &policy.Client{
		Remote: s.c.Remote, Local: s.c.Local, Helo: s.c.Helo, ESMTP: s.c.ESMTP, TLS: s.c.TLS, AuthUser: s.c.AuthUser, AuthType: s.mech,
		Service: s.cfg.Name,
	}
}

// Hello accepts any name that no filter minds: it is recorded, not believed.
func (s *session) Hello(ctx context.Context, c *smtp.ConnInfo) error {
	s.c = c
	for _, f := range s.filters {
		if err := f.Session.Hello(ctx, s.client()); err != nil {
			return err
		}
	}
	return nil
}

// Auth is RFC 4954. An unknown user and a wrong password get the same reply.
func (s *session) Auth(ctx context.Context, mech, authz, user, password string) (string, error) {
	a := s.cfg.Auth
	if a == nil {
		return "", replyNoAuth
	}
	var login string
	var err error
	if mech == "EXTERNAL" {
		if s.c.TLS == nil {
			return "", replyBadAuth
		}
		login, err = a.Certificate(ctx, s.c.TLS, authz)
	} else {
		login, err = a.Password(ctx, user, password, authz)
	}
	if err == nil {
		s.mech = mech
		return login, nil
	}
	r := replyAuthFail
	if mail.Permanent(err) {
		r = replyBadAuth
	}
	s.cfg.Log.Info("authentication failed", "service", s.cfg.Name, "client", s.c.Remote.Addr(), "mechanism", mech,
		"user", user, "error", err)
	s.cfg.Mail.Rejected(maillog.Event{Client: s.c.Remote.Addr().String(), User: user, Code: r.Code, Status: r.Status, Reply: r.Text})
	return "", r
}

// Mail begins a transaction.
func (s *session) Mail(ctx context.Context, m *smtp.MailArgs) error {
	if s.cfg.Role == Submission && s.c.AuthUser == "" {
		return replyAuthFirst
	}
	if s.c.AuthUser != "" && s.cfg.MaySend != nil {
		if err := s.cfg.MaySend(ctx, s.c.AuthUser, m.From); err != nil {
			return s.refused(err, m.From, mail.Address{})
		}
	}
	env := mail.Envelope{
		ReversePath: m.From, EnvelopeID: m.EnvelopeID, Ret: m.Ret, Body: m.Body, SMTPUTF8: m.SMTPUTF8, Size: max(0, m.Size),
	}
	tx, err := s.cfg.Acceptor.Begin(ctx, env, transaction.Source{
		Client: s.c.Remote, Helo: s.c.Helo, Protocol: s.protocol(m.SMTPUTF8), TLS: s.c.TLS, AuthUser: s.c.AuthUser,
		AuthType: s.mech, Local: s.c.Local, Service: s.cfg.Name, MayRelay: s.mayRelay(), Submitted: s.cfg.Role == Submission, Filters: s.filters,
	})
	if err != nil {
		s.Reset() // some may have been told
		return s.refused(err, m.From, mail.Address{})
	}
	s.tx, s.from = tx, m.From
	return nil
}

// mayRelay reports whether this client may send to other domains.
func (s *session) mayRelay() bool {
	if s.c.AuthUser != "" {
		return true
	}
	return contains(s.cfg.MayRelay, s.c.Remote.Addr())
}

func contains(nets []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// protocol is the "with" clause of Received (RFC 3848, RFC 6531).
func (s *session) protocol(utf8 bool) string {
	if !s.c.ESMTP {
		return "SMTP"
	}
	name := "ESMTP"
	if utf8 {
		name = "UTF8SMTP"
	}
	if s.c.TLS != nil {
		name += "S"
	}
	if s.c.AuthUser != "" {
		name += "A"
	}
	return name
}

// Rcpt adds a recipient.
func (s *session) Rcpt(ctx context.Context, r *smtp.RcptArgs) error {
	err := s.tx.Rcpt(ctx, mail.Recipient{Address: r.To, OriginalRecipient: r.OriginalRecipient, Notify: r.Notify})
	if err != nil {
		return s.refused(err, s.from, r.To)
	}
	return nil
}

// refused logs a refusal and makes it a reply.
func (s *session) refused(err error, from, to mail.Address) error {
	var r *smtp.Reply
	if !errors.As(err, &r) {
		r = smtp.ReplyFor(mail.AsError("smtpd", err))
	}
	if r.Text == "" {
		c := *r
		c.Text = "Refused"
		r = &c
	}
	e := maillog.Event{
		Client: s.c.Remote.Addr().String(), User: s.c.AuthUser, ReversePath: from, NullSender: true,
		Recipient: to, Code: r.Code, Status: r.Status, Reply: r.Text,
	}
	if s.tx != nil {
		e.QueueID = s.tx.QueueID()
	}
	s.cfg.Mail.Rejected(e)
	if r.Code < 500 {
		s.cfg.Log.Warn("recipient or sender refused for now", "service", s.cfg.Name, "client", s.c.Remote.Addr(), "error", err)
	}
	return r
}

// Data ends the transaction.
func (s *session) Data(ctx context.Context, m *smtp.Message) []*smtp.Reply {
	tx := s.tx
	s.tx = nil
	c := transaction.Content{Bytes: m.Bytes, EightBit: m.EightBit}
	if s.cfg.Role == Submission {
		c.Prepend = s.complete(m.Bytes, tx.QueueID())
	}
	return []*smtp.Reply{tx.Data(ctx, c)}
}

// complete makes the fields that RFC 6409 8 lets a submission server add.
func (s *session) complete(msg []byte, id string) []byte {
	date, messageID := false, false
	for f := range message.Fields(msg[:message.HeaderLen(msg)]) {
		date = date || bytes.EqualFold(f.Name, []byte("Date"))
		messageID = messageID || bytes.EqualFold(f.Name, []byte("Message-ID"))
	}
	if date && messageID {
		return nil
	}
	var b []byte
	if !date {
		b = append(b, "Date: "...)
		b = s.cfg.Now().AppendFormat(b, time.RFC1123Z)
		b = append(b, '\r', '\n')
	}
	if !messageID {
		b = append(b, "Message-ID: <"...)
		b = append(b, id...)
		b = append(b, '@')
		b = append(b, strings.ToLower(s.cfg.Hostname)...)
		b = append(b, '>', '\r', '\n')
	}
	return b
}

// Reset drops the transaction.
func (s *session) Reset() {
	s.tx = nil
	for _, f := range s.filters {
		f.Session.Reset()
	}
}

// Close ends the session.
func (s *session) Close() {
	s.tx = nil
	for _, f := range s.filters {
		f.Session.Close()
	}
	s.release()
}

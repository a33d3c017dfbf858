package smtp

import (
	"context"
	"errors"
	"strings"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// try is one attempt, over the addresses of a domain.
type try struct {
	a       *Agent
	d       *deliver.Delivery
	results []deliver.Result
	open    []int // recipients that still need an answer
}

// check leaves out recipients, or all, whose addresses cannot be sent.
func (t *try) check() {
	for i := range t.d.Recipients {
		if printable(t.d.Recipients[i].Address) {
			t.open = append(t.open, i)
			t.results[i] = *deferred(mail.StatusNoAnswer, "No mail exchanger answers", nil)
			continue
		}
		t.results[i] = *failed(mail.StatusBadSyntax, "Address cannot be sent", nil)
	}
	if from := t.d.Envelope.ReversePath; !from.IsNull() && !printable(from) {
		t.all(*failed(mail.StatusBadSenderSyntax, "Sender's address cannot be sent", nil))
		t.open = nil
	}
}

// printable reports whether a reads back from the wire as itself.
func printable(a mail.Address) bool {
	back, err := mail.ParseAddress(a.String(), true)
	return err == nil && back.Local == a.Local && strings.EqualFold(back.Domain, a.Domain)
}

// all gives every open recipient the same result.
func (t *try) all(r deliver.Result) {
	for _, i := range t.open {
		t.results[i] = r
	}
}

// unreached notes that a session with peer could not begin.
func (t *try) unreached(peer target, err error) {
	var r *smtp.Reply
	res := *deferred(mail.StatusNoAnswer, "Mail exchanger does not answer", err)
	if errors.As(err, &r) {
		// What a server says before MAIL is about itself, not about the
		// message: 5yz here is tried again elsewhere or later.
		res.Code, res.Text = r.Code, r.Text
		if r.Status[0] == 4 {
			res.Status = r.Status
		}
		if r.Code >= 500 {
			res.Code = 0
		}
	} else if errors.Is(err, errTLS) {
		res.Status, res.Text = mail.Status{4, 7, 5}, "TLS handshake failed"
	}
	res.Relay = peer.String()
	t.all(res)
}

// run gives the open recipients to one session. It reports whether the attempt
// is over.
func (t *try) run(ctx context.Context, s *session) bool {
	stop := s.conn.follow(ctx)
	keep, over := t.transaction(s)
	stop()
	if keep {
		t.a.keep(s)
	} else {
		s.close()
	}
	return over
}

// transaction is MAIL, RCPT and DATA. keep: the session can be used again;
// over: no other address is to be tried.
func (t *try) transaction(s *session) (keep, over bool) {
	env := t.d.Envelope
	_, utf8 := extension(s, "SMTPUTF8")
	if t.needsUTF8() && !utf8 {
		t.all(deliver.Result{Outcome: deliver.Failed, Status: mail.Status{5, 6, 7}, Text: "Address needs SMTPUTF8, which the next host does not offer", Relay: s.peer.String()})
		return true, true
	}
	opts := &gosmtp.MailOptions{Size: t.d.Size(), UTF8: utf8 && (env.SMTPUTF8 || t.needsUTF8()), Return: gosmtp.DSNReturn(env.Ret), EnvelopeID: env.EnvelopeID}
	if err := s.c.Mail(env.ReversePath.String(), opts); err != nil {
		return t.refused(s, err)
	}
	accepted, over, err := t.rcpts(s)
	switch {
	case err != nil:
		return false, over
	case len(accepted) == 0:
		return s.c.Reset() == nil, true
	}
	return t.data(s, accepted)
}

func (t *try) needsUTF8() bool {
	if !t.d.Envelope.ReversePath.IsASCII() {
		return true
	}
	for _, i := range t.open {
		if !t.d.Recipients[i].Address.IsASCII() {
			return true
		}
	}
	return false
}

func extension(s *session, name string) (string, bool) {
	ok, params := s.c.Extension(name)
	return params, ok
}

// refused is the answer to MAIL for everybody.
func (t *try) refused(s *session, err error) (keep, over bool) {
	r, ok := reply(err)
	if !ok {
		t.lost(s, err)
		return false, !s.fresh && false
	}
	t.all(deliver.FromReply(r, s.peer.String()))
	return r.Code != 421, r.Code != 421
}

// lost notes that the session ended before the message was sent.
func (t *try) lost(s *session, err error) {
	r := *deferred(mail.StatusBadConnection, "Connection lost", err)
	r.Relay = s.peer.String()
	t.all(r)
}

// rcpts names the open recipients. An error means that the session is over.
func (t *try) rcpts(s *session) (accepted []int, over bool, err error) {
	for _, i := range t.open {
		r := &t.d.Recipients[i]
		err := s.c.Rcpt(r.Address.String(), rcptOptions(r))
		if err == nil {
			accepted = append(accepted, i)
			continue
		}
		refusal, ok := reply(err)
		if !ok || refusal.Code == 421 {
			t.lost(s, err)
			if ok {
				t.all(deliver.FromReply(refusal, s.peer.String()))
			}
			return nil, false, err
		}
		t.results[i] = deliver.FromReply(refusal, s.peer.String())
	}
	return accepted, true, nil
}

// rcptOptions are the DSN parameters of r (RFC 3461), which go-smtp sends where
// the peer knows them.
func rcptOptions(r *mail.Recipient) *gosmtp.RcptOptions {
	o := &gosmtp.RcptOptions{}
	if n := r.Notify.String(); n != "" {
		for w := range strings.SplitSeq(n, ",") {
			o.Notify = append(o.Notify, gosmtp.DSNNotify(w))
		}
	}
	if kind, addr, ok := strings.Cut(r.OriginalRecipient, ";"); ok && strings.EqualFold(kind, "rfc822") && ascii(addr) {
		o.OriginalRecipientType, o.OriginalRecipient = gosmtp.DSNAddressTypeRFC822, addr
	}
	return o
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}

// data sends the message to the accepted recipients.
func (t *try) data(s *session, accepted []int) (keep, over bool) {
	w, err := s.c.Data()
	if err != nil {
		t.open = accepted
		return t.refused(s, err)
	}
	for _, b := range t.d.Body {
		if _, err := w.Write(b); err != nil {
			t.open = accepted
			t.lost(s, err)
			return false, false
		}
	}
	done, err := w.CloseWithResponse()
	res := deliver.Result{Outcome: deliver.Relayed, Code: 250, Status: mail.StatusOK, Relay: s.peer.String()}
	if _, dsn := extension(s, "DSN"); dsn {
		res.Outcome = deliver.Passed // the peer reports from here on
	}
	if err != nil {
		if r, ok := reply(err); ok {
			res = deliver.FromReply(r, s.peer.String())
			keep = r.Code != 421
		} else {
			res = deliver.Result{Outcome: deliver.Unknown, Status: mail.StatusBadConnection, Text: "Connection lost after the message", Relay: s.peer.String(), Err: err}
		}
	} else {
		res.Text, keep = done.StatusText, true
		if st, rest, ok := strings.Cut(done.StatusText, " "); ok {
			if status, ok := parseStatus(st, 250); ok {
				res.Status, res.Text = status, rest
			}
		}
	}
	for _, i := range accepted {
		t.results[i] = res
	}
	return keep, true
}

// reply is the peer's reply in an error of go-smtp, if there is one.
func reply(err error) (*smtp.Reply, bool) {
	var e *gosmtp.SMTPError
	if !errors.As(err, &e) {
		return nil, false
	}
	r := &smtp.Reply{Code: e.Code, Text: e.Message}
	if c := e.EnhancedCode; c[0] == e.Code/100 {
		r.Status = mail.Status(c)
	}
	if r.Code < 400 || r.Code > 599 { // a reply that has no place there
		r.Code, r.Status = 451, mail.Status{4, 5, 0}
	}
	return r, true
}

// parseStatus reads an enhanced status code that fits a reply code.
func parseStatus(s string, code int) (mail.Status, bool) {
	st, ok := mail.ParseStatus(s)
	return st, ok && st[0] == code/100
}

/*
Package policy is what judges a session and its messages: the vocabulary
between the filters (policy/milter) and the rooms that ask them.

	smtpd        Open -> Hello                           each may end in a reply,
	transaction                Mail -> Rcpt ...          so may these
	                                          Message -> Verdict

A Filter that judges all mail follows the session of its client from the first
octet. One that people opt in to is asked by package transaction alone, at the
end of DATA, and told of nobody else but those recipients.

A Session's word on a message is final. What a filter is to do when its program
does not answer is the filter's own setting: the others see a verdict like any
other, and a temporary refusal where nothing was said.

Package policy decides nothing and contacts nobody.
*/
package policy

import (
	"context"
	"crypto/tls"
	"net/netip"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// Client is who gives us a message. What is not known is zero: a message that
// waited in a queue has no connection any more.
type Client struct {
	Remote   netip.AddrPort
	Local    netip.AddrPort // where it connected to
	Helo     string
	ESMTP    bool
	TLS      *tls.ConnectionState // nil in the clear
	AuthUser string               // who logged in
	AuthType string               // and by which SASL mechanism
	Service  string               // that took the connection: "mx", "submission"
}

// Mail is the MAIL command of a message that has its queue id already.
type Mail struct {
	From     mail.Address
	Size     int64 // as announced, 0 if not
	Body     mail.BodyType
	SMTPUTF8 bool
	QueueID  string
}

// Filter judges mail. Any number of calls may run at once.
type Filter interface {
	// Name is the filter's, for logs and metrics, and the word by which
	// recipients opt in to it.
	Name() string
	// Open begins a session for c. The error is the reply, a *smtp.Reply, in
	// which case there is no Session. c is not kept.
	Open(ctx context.Context, c *Client) (Session, error)
}

// Session is one client's session as a filter sees it. Its calls never overlap.
// Errors are replies, *smtp.Reply with a code of 4yz or 5yz; nil is to go on. A
// call never takes longer than the filter's time limits, whatever ctx says.
type Session interface {
	// Hello is asked at EHLO, HELO, and once more after STARTTLS.
	Hello(ctx context.Context, c *Client) error
	// Mail begins a message; one that was under way is over. c says who has
	// logged in since.
	Mail(ctx context.Context, c *Client, m *Mail) error
	// Rcpt is asked about each recipient that is accepted otherwise.
	Rcpt(ctx context.Context, to mail.Address) error
	// Message is asked at the end of DATA, with the whole message, which is
	// not changed and not kept, and strict CRLF. The verdict is about those
	// recipients that Rcpt did not refuse. It ends the message.
	Message(ctx context.Context, segments [][]byte) Verdict
	// Reset ends a message that did not come to Message.
	Reset()
	// Close ends the session. It is called once, always.
	Close()
}

// Verdict is what becomes of a message. At most one of Reply, Discard and Hold is
// set; what is changed counts for Hold and for a message that goes on.
type Verdict struct {
	Reply   *smtp.Reply // refusal, 4yz or 5yz
	Discard bool        // accept it and drop it
	Hold    string      // why it is to wait for the operator: quarantine

	Message     []byte         // the message as it is from now on; nil: unchanged
	ReversePath *mail.Address  // nil: unchanged
	Add         []mail.Address // recipients besides, looked up like any other
	Remove      []mail.Address // recipients, as Rcpt named them, who get nothing
	Changes     string         // what was changed, for the log; "" is nothing
}

// Judge asks f about one message as though a client gave it just now: for
// filters that do not follow a session. refused has the answer of each recipient
// of to that alone is refused, nil for the others.
func Judge(ctx context.Context, f Filter, c *Client, m *Mail, to []mail.Address, segments [][]byte) (v Verdict, refused []*smtp.Reply) {
	refused = make([]*smtp.Reply, len(to))
	s, err := f.Open(ctx, c)
	if err != nil {
		return Verdict{Reply: smtp.ReplyFor(err)}, refused
	}
	defer s.Close()
	if err = s.Hello(ctx, c); err == nil {
		err = s.Mail(ctx, c, m)
	}
	if err != nil {
		return Verdict{Reply: smtp.ReplyFor(err)}, refused
	}
	asked := 0
	for i, a := range to {
		if err := s.Rcpt(ctx, a); err != nil {
			refused[i] = smtp.ReplyFor(err)
			continue
		}
		asked++
	}
	if asked == 0 {
		s.Reset()
		return Verdict{}, refused
	}
	return s.Message(ctx, segments), refused
}

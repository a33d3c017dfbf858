package smtp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

const (
	// window is how many commands are under way at once: their replies fit the
	// buffers of TCP, so that neither side waits for the other (RFC 2920 3.1).
	window = 200
	// sendBuffer is the most that is gathered before it is written.
	sendBuffer = 64 << 10
	// oneFlight is the largest body that follows its commands as BDAT without
	// waiting for their replies.
	oneFlight = 256 << 10
)

// The refusals of the client itself. They stand where the peer's replies would.
var (
	localBody     = &Reply{Code: 550, Status: mail.StatusSyntax, Text: "Message has a bare CR, a bare LF or a NUL"}
	localSender   = &Reply{Code: 501, Status: mail.StatusBadSenderSyntax, Text: "Sender or its parameters cannot be sent"}
	localRcpt     = &Reply{Code: 501, Status: mail.StatusBadSyntax, Text: "Recipient or its parameters cannot be sent"}
	localUTF8     = &Reply{Code: 550, Status: mail.Status{5, 6, 7}, Text: "Address needs SMTPUTF8, which the next host does not offer"}
	localTooBig   = &Reply{Code: 552, Status: mail.StatusTooBig, Text: "Message size exceeds the limit of the next host"}
	errPeerCloses = errors.New("smtp: peer closes")
)

// Final returns the last word on recipient i: the refusal of MAIL, RCPT or
// DATA, or the reply after the message. It is nil when none arrived: then the
// outcome is unknown if Sent, and else the message was not delivered.
func (r *Result) Final(i int) *Reply {
	switch {
	case r.Mail != nil && !r.Mail.OK():
		return r.Mail
	case i < len(r.Rcpts) && r.Rcpts[i] != nil && !r.Rcpts[i].OK():
		return r.Rcpts[i]
	case i < len(r.Data) && r.lmtp:
		return r.Data[i]
	case len(r.Data) == 1 && !r.lmtp:
		return r.Data[0]
	}
	return nil
}

// sending is one transaction on its way.
type sending struct {
	*Client
	t        *Transaction
	res      *Result
	out      []byte
	body     inspection
	size     int64
	openEnd  bool  // the body does not end with CRLF
	chunked  bool  // by BDAT
	sent     []int // recipients that RCPT is sent for, by index
	answered int   // how many of those have their reply
	reset    bool  // RSET was sent first
	mailSent bool
	accepted int
	failed   error // of writing the body
}

// Send sends one transaction. An error means that the connection is of no more
// use; the Result then holds what arrived before. What the peer refuses, and
// what this client refuses to send (a bare CR, LF or NUL in the body, an
// address that would not survive, a message over the peer's SIZE), are replies
// in the Result and no error. When MAIL is refused its reply stands for every
// recipient. The replies are shared: they must not be changed.
func (c *Client) Send(ctx context.Context, t *Transaction) (*Result, error) {
	res := &Result{Rcpts: make([]*Reply, len(t.Rcpts)), lmtp: c.cfg.Protocol == LMTP}
	if c.broken {
		return res, ErrUnusable
	}
	if len(t.Rcpts) == 0 {
		return res, errors.New("smtp: transaction without recipients")
	}
	s := &c.sending
	*s = sending{Client: c, t: t, res: res, sent: s.sent[:0]}
	defer func() { s.t, s.res, s.out = nil, nil, nil }()
	if r := s.inspect(); r != nil {
		s.refuseAll(r)
		return res, nil
	}
	for i := range t.Rcpts {
		if res.Rcpts[i] = s.checkRcpt(&t.Rcpts[i]); res.Rcpts[i] == nil {
			s.sent = append(s.sent, i)
		}
	}
	if len(s.sent) == 0 {
		return res, nil
	}
	s.chunked = t.UseBDAT && c.offers("CHUNKING")
	defer c.watch(ctx)()
	room := getBody(int(min(sendBuffer, s.size+4096)))
	s.out = room.b[:0]
	err := s.run()
	room.free()
	if err != nil {
		c.broken = true
		return res, c.cause(err)
	}
	return res, nil
}

// inspect looks over the body and the sender. It returns the refusal, if any.
func (s *sending) inspect() *Reply {
	var look inspector
	for _, seg := range s.t.Body {
		look.add(seg)
		s.size += int64(len(seg))
	}
	s.body = look.end()
	if s.body.bare || s.body.nul {
		return localBody
	}
	if s.openEnd = s.size > 0 && look.last != '\n'; s.openEnd {
		s.size += 2
	}
	if limit, ok := s.ext["SIZE"]; ok {
		if n, ok := parseDigits(limit); ok && n > 0 && s.size > n {
			return localTooBig
		}
	}
	m := &s.t.Mail
	switch {
	case !m.From.IsASCII() && !s.offers("SMTPUTF8"):
		return localUTF8
	case !sendable(m.From) && !m.From.IsNull(), m.EnvelopeID != "" && !plain(m.EnvelopeID), !plain(m.Auth),
		m.Ret != "" && m.Ret != "FULL" && m.Ret != "HDRS", !privateOK(m.Private):
		return localSender
	}
	return nil
}

// sendable reports whether a reads back from the wire as the same address.
func sendable(a mail.Address) bool {
	if simplePath(a) {
		return true
	}
	back, rest, err := mail.ParsePath(a.Path(), true)
	return err == nil && rest == "" && back.Local == a.Local && strings.EqualFold(back.Domain, a.Domain)
}

// simplePath reports an address of letters, digits and what harms nowhere, so
// that the usual one is neither printed nor parsed to know that it can be sent.
func simplePath(a mail.Address) bool {
	if len(a.Local) > mail.MaxLocalPart || len(a.Local)+len(a.Domain) > mail.MaxPath-3 {
		return false
	}
	return simpleDots(a.Local) && simpleDots(a.Domain)
}

// simpleDots reports words of letters, digits and inner hyphens between dots,
// none longer than a label.
func simpleDots(s string) bool {
	word := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			if word++; word > 63 {
				return false
			}
		case (c == '.' || c == '-') && word > 0 && i+1 < len(s) && s[i+1] != '.' && s[i+1] != '-':
			if word++; c == '.' {
				word = 0
			}
		default:
			return false
		}
	}
	return word > 0
}

// appendPath prints a with its angle brackets.
func appendPath(b []byte, a mail.Address) []byte {
	if !simplePath(a) {
		return append(b, a.Path()...)
	}
	b = append(append(b, '<'), a.Local...)
	b = append(append(b, '@'), a.Domain...)
	return append(b, '>')
}

func privateOK(p map[string]string) bool {
	for k, v := range p {
		if !isKeyword(k) || !isText(v) {
			return false
		}
	}
	return true
}

// refuseAll notes that MAIL was refused, by the peer or before it was sent.
func (s *sending) refuseAll(r *Reply) {
	s.res.Mail = r
	for i := range s.res.Rcpts {
		s.res.Rcpts[i] = r
	}
}

// run sends the commands and the message and reads the replies.
func (s *sending) run() error {
	most := 1
	pipelined := s.offers("PIPELINING")
	if pipelined {
		most = window
	}
	pending := 0 // commands without a reply
	step := func(upTo int) error {
		if pending++; pending < most && len(s.out) < sendBuffer/4 {
			return nil
		}
		pending = 0
		return s.exchange(upTo)
	}
	if s.open {
		s.out = append(s.out, "RSET\r\n"...)
		s.reset = true
		if err := step(0); err != nil || s.mailRefused() {
			return err
		}
	}
	s.appendMail()
	s.mailSent = true
	if err := step(0); err != nil || s.mailRefused() {
		return err
	}
	for n, i := range s.sent {
		s.appendRcpt(&s.t.Rcpts[i])
		if err := step(n + 1); err != nil || s.mailRefused() {
			return err
		}
	}
	if !pipelined || s.chunked && s.size > oneFlight {
		if err := s.exchange(len(s.sent)); err != nil || s.mailRefused() || s.accepted == 0 {
			return err
		}
	}
	if s.chunked {
		return s.sendChunk()
	}
	return s.sendDotted()
}

func (s *sending) mailRefused() bool { return s.res.Mail != nil && !s.res.Mail.OK() }

// exchange writes what is gathered and reads the replies to RSET, MAIL and the
// first upTo recipients that were sent.
func (s *sending) exchange(upTo int) error {
	if err := s.flush(s.cfg.Command); err != nil {
		return err
	}
	return s.readReplies(upTo)
}

func (s *sending) flush(timeout time.Duration) error {
	if len(s.out) == 0 {
		return nil
	}
	err := s.write(s.out, timeout)
	s.out = s.out[:0]
	return err
}

func (s *sending) readReplies(upTo int) error {
	if s.reset {
		r, err := s.readReply(s.cfg.Command)
		if err != nil {
			return err
		}
		if s.reset = false; !r.OK() {
			s.refuseAll(refusal(r))
			return closes(r)
		}
		s.open = false
	}
	if s.mailSent && s.res.Mail == nil {
		r, err := s.readReply(s.cfg.Command)
		if err != nil {
			return err
		}
		s.res.Mail = r
		if r.OK() {
			s.open = true
		} else {
			s.refuseAll(r)
			if err := closes(r); err != nil {
				return err
			}
		}
	}
	for ; s.answered < upTo; s.answered++ {
		r, err := s.readReply(s.cfg.Command)
		if err != nil {
			return err
		}
		if s.mailRefused() {
			continue // 503, of no interest
		}
		s.res.Rcpts[s.sent[s.answered]] = r
		if r.OK() {
			s.accepted++
		}
		if err := closes(r); err != nil {
			for _, i := range s.sent[s.answered:] {
				s.res.Rcpts[i] = r
			}
			s.setData(r)
			return err
		}
	}
	return nil
}

// closes is an error if the peer closes the connection with r.
func closes(r *Reply) error {
	if r.Code == 421 {
		return fmt.Errorf("%w: %w", errPeerCloses, r)
	}
	return nil
}

// setData makes r the answer to the message, for every accepted recipient in
// LMTP.
func (s *sending) setData(r *Reply) {
	if !s.res.lmtp {
		s.res.Data = []*Reply{r}
		return
	}
	if s.res.Data == nil {
		s.res.Data = make([]*Reply, len(s.t.Rcpts))
	}
	for i, rr := range s.res.Rcpts {
		if rr != nil && rr.OK() && s.res.Data[i] == nil {
			s.res.Data[i] = r
		}
	}
}

// sendDotted sends the message with DATA. With PIPELINING the replies to the
// commands before come first.
func (s *sending) sendDotted() error {
	s.out = append(s.out, "DATA\r\n"...)
	if err := s.flush(s.cfg.DataInit); err != nil {
		return err
	}
	if err := s.readReplies(len(s.sent)); err != nil {
		return err
	}
	r, err := s.readReply(s.cfg.DataInit)
	if err != nil {
		return err
	}
	switch {
	case s.mailRefused() || s.accepted == 0:
		if r.Code == 354 { // an empty message could be taken for one
			s.broken = true
			s.nc.Close()
			return nil
		}
		return closes(r)
	case r.Code != 354:
		s.setData(refusal(r))
		return closes(r)
	}
	if err := s.writeBody(); err != nil {
		return err
	}
	return s.readAnswers()
}

// sendChunk sends the message as one BDAT chunk.
func (s *sending) sendChunk() error {
	s.out = append(s.out, "BDAT "...)
	s.out = append(s.out, formatInt(s.size)...)
	s.out = append(s.out, " LAST\r\n"...)
	if err := s.writeBody(); err != nil {
		return err
	}
	if err := s.readReplies(len(s.sent)); err != nil {
		return err
	}
	if s.mailRefused() || s.accepted == 0 {
		r, err := s.readReply(s.cfg.DataDone)
		if err == nil && r.OK() {
			err = fmt.Errorf("%w: message taken without recipients", ErrProtocol)
		}
		return err
	}
	return s.readAnswers()
}

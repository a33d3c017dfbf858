package milter

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// session is one client's session, and one connection to the filter.
type session struct {
	f        *Filter
	c        *conn // nil: none, or not any more
	protocol uint32
	lists    [stages][]string
	values   values

	// What has been said about the session: the filter wants to hear nothing
	// more of it, or everything that follows is refused.
	over   bool
	refuse *smtp.Reply
	broken bool // because the filter cannot be asked

	// The message that is under way.
	open       bool // the filter knows of it
	accepted   bool // it wants to hear nothing more of it
	discard    bool
	enough     bool // of recipients
	m          policy.Mail
	recipients []mail.Address
}

var _ policy.Session = (*session)(nil)

// dial connects and negotiates.
func (s *session) dial(ctx context.Context) error {
	cfg := &s.f.cfg
	dctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	nc, err := cfg.Dial(dctx, s.f.network, s.f.addr)
	cancel()
	if err != nil {
		return err
	}
	s.c = newConn(nc)
	defer s.c.begin(ctx, cfg.CommandTimeout, cfg.CommandTimeout, maxCommandReply)()
	offer := binary.BigEndian.AppendUint32(nil, version)
	offer = binary.BigEndian.AppendUint32(offer, allActions)
	offer = binary.BigEndian.AppendUint32(offer, allProtocol)
	s.c.packet(cmdNegotiate, offer)
	code, data, err := s.c.read()
	if err != nil {
		return err
	}
	return s.negotiated(code, data)
}

// negotiated reads what the filter wants.
func (s *session) negotiated(code byte, data []byte) error {
	if code != cmdNegotiate || len(data) < 12 {
		return fmt.Errorf("answer %q to the negotiation", code)
	}
	v, actions := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])
	s.protocol = binary.BigEndian.Uint32(data[8:])
	if v < 2 || v > version {
		return fmt.Errorf("it speaks version %d", v)
	}
	if actions&^allActions != 0 {
		return fmt.Errorf("it wants to do what we do not know: %#x", actions&^allActions)
	}
	if v < 4 { // does not know these events
		s.protocol |= noData
	}
	for data = data[12:]; len(data) > 4; {
		stage := binary.BigEndian.Uint32(data)
		names, rest, ok := cutString(data[4:])
		if !ok {
			return fmt.Errorf("a list of macros does not end")
		}
		if data = rest; stage < stages {
			s.lists[stage] = macroNames(names)
		}
	}
	return nil
}

// cutString reads a string that ends with NUL.
func cutString(data []byte) (s string, rest []byte, ok bool) {
	for i, c := range data {
		if c == 0 {
			return string(data[:i]), data[i+1:], true
		}
	}
	return "", data, false
}

// connect tells the filter of the client.
func (s *session) connect(ctx context.Context, c *policy.Client) error {
	var host string
	var verified bool
	if s.f.cfg.Host != nil && c.Remote.IsValid() {
		hctx, cancel := context.WithTimeout(ctx, s.f.cfg.CommandTimeout)
		host, verified = s.f.cfg.Host(hctx, c.Remote.Addr().Unmap())
		cancel()
	}
	s.values.connection(c, s.f.cfg.Hostname, host, verified)
	addr := address(c.Remote.Addr())
	name := "[" + addr + "]"
	if host != "" && verified {
		name = printable(host)
	}
	var data []byte
	if c.Remote.IsValid() {
		data = append(append(data, name...), 0)
		family := byte('4')
		if strings.Contains(addr, ":") {
			family = '6'
		}
		data = append(data, family)
		data = binary.BigEndian.AppendUint16(data, c.Remote.Port())
		data = append(append(data, addr...), 0)
	} else {
		// Whoever it was, it was not this host, as "localhost" would say.
		data = append(data, "unknown\x00U"...)
	}
	return s.command(ctx, evConnect, data)
}

// Hello tells of EHLO and HELO.
func (s *session) Hello(ctx context.Context, c *policy.Client) error {
	s.Reset()
	s.values.hello(c)
	if c.Helo == "" {
		return s.stands()
	}
	return s.command(ctx, evHelo, cstring(c.Helo))
}

func cstring(s string) []byte { return append([]byte(printable(s)), 0) }

// stands is the answer where the filter is not asked.
func (s *session) stands() error {
	if s.refuse != nil {
		return s.refuse
	}
	return nil
}

// command asks about the client, the sender or a recipient.
func (s *session) command(ctx context.Context, ev *event, data []byte) error {
	if s.over || s.refuse != nil || s.accepted || s.discard {
		return s.stands()
	}
	defer s.c.begin(ctx, s.f.cfg.CommandTimeout, s.f.cfg.CommandTimeout, maxCommandReply)()
	d, err := s.ask(ev, data)
	if err != nil {
		return s.fail(ctx, ev.name, err)
	}
	if d.reply != nil {
		if ev == evConnect || ev == evHelo || d.code == respShutdown {
			s.refuse = d.reply
			s.hangUp()
		}
		return s.f.refused(d.reply)
	}
	switch d.code {
	case respAccept:
		if ev == evConnect || ev == evHelo {
			s.over = true
			s.hangUp()
		} else {
			s.accepted = true
		}
	case respDiscard: // means nothing before there is a message
		s.discard = ev != evConnect && ev != evHelo
	case respSkip:
		s.enough = true
	}
	return nil
}

// ask tells of an event and reads what the filter says, if it wants to hear of
// it and to say something.
func (s *session) ask(ev *event, data []byte) (decision, error) {
	if ev.stage >= 0 {
		if macros := s.values.append([]byte{ev.cmd}, s.lists[ev.stage]); len(macros) > 1 {
			s.c.packet(cmdMacros, macros)
		}
	}
	if s.protocol&ev.no != 0 {
		return decision{code: respContinue}, nil
	}
	if ev == evBody {
		if err := s.c.body(data); err != nil {
			return decision{}, err
		}
	} else {
		s.c.packet(ev.cmd, data)
	}
	if s.protocol&ev.mute != 0 {
		if len(s.c.out) > maxPending {
			return decision{code: respContinue}, s.c.flush()
		}
		return decision{code: respContinue}, nil
	}
	code, data, err := s.c.answer()
	if err != nil {
		return decision{}, err
	}
	d, err := decide(code, data)
	if err == nil && d.code == respSkip && (!ev.skip || s.protocol&canSkip == 0) {
		err = fmt.Errorf("answer %q where nothing can be skipped", code)
	}
	return d, err
}

// fail does what is to be done where the filter cannot be asked: for the rest of
// the session, since nobody knows what it has understood.
func (s *session) fail(ctx context.Context, stage string, err error) error {
	s.f.count("failed")
	level := slog.LevelWarn
	if ctx.Err() == context.Canceled { // a client that has gone, for example
		level = slog.LevelInfo
	}
	s.f.cfg.Log.Log(ctx, level, "filter not asked", "filter", s.f.cfg.Name, "stage", stage, "queue_id", s.m.QueueID, "error", err)
	s.drop()
	s.open, s.broken = false, true
	switch {
	case ctx.Err() != nil:
		// We did not wait for it. That is no word on the mail.
		s.refuse = replyTempfail
	case s.f.onFailure == nil:
		s.over = true
	default:
		s.refuse = s.f.onFailure
	}
	return s.stands()
}

// drop closes the connection without a word.
func (s *session) drop() {
	if s.c != nil {
		s.c.Close()
		s.c = nil
	}
}

// hangUp ends the connection in order.
func (s *session) hangUp() {
	if s.c != nil {
		s.c.bye()
		s.c = nil
	}
}

// Mail begins a message.
func (s *session) Mail(ctx context.Context, c *policy.Client, m *policy.Mail) error {
	s.Reset()
	s.m = *m
	s.values.mail(c, m)
	data := cstring(m.From.Path())
	if m.Size > 0 {
		data = append(data, cstring("SIZE="+strconv.FormatInt(m.Size, 10))...)
	}
	if m.Body != "" {
		data = append(data, cstring("BODY="+string(m.Body))...)
	}
	if m.SMTPUTF8 {
		data = append(data, cstring("SMTPUTF8")...)
	}
	s.open = s.c != nil
	err := s.command(ctx, evMail, data)
	if err != nil {
		s.Reset()
	}
	return err
}

// Rcpt asks about a recipient.
func (s *session) Rcpt(ctx context.Context, to mail.Address) error {
	if !s.enough {
		s.values.address("{rcpt_", to)
		if err := s.command(ctx, evRcpt, cstring(to.Path())); err != nil {
			return err
		}
	}
	s.recipients = append(s.recipients, to)
	return nil
}

// Reset ends a message that is under way.
func (s *session) Reset() {
	if s.open && s.c != nil {
		s.c.packet(cmdAbort, nil)
		done := s.c.begin(context.Background(), s.f.cfg.CommandTimeout, s.f.cfg.CommandTimeout, maxCommandReply)
		if err := s.c.flush(); err != nil {
			s.fail(context.Background(), "abort", err)
		}
		done()
	}
	s.forget()
}

// forget makes room for the next message.
func (s *session) forget() {
	s.open, s.accepted, s.discard, s.enough = false, false, false, false
	s.m, s.recipients = policy.Mail{}, nil
	s.values.forget()
}

// Close ends the session.
func (s *session) Close() {
	if s.open && s.c != nil {
		s.c.packet(cmdAbort, nil)
	}
	s.hangUp()
}

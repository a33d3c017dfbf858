package imapd

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// appending is an APPEND on its way: the octets of its messages are taken out
// of the command, the rest is read like any other command.
type appending struct {
	s        *session
	name     string
	msgs     []mailbox.AppendMessage
	buffers  []*[]byte // that msgs use, from the pool
	reserved int64     // octets counted in Server.appending
	wrapped  bool      // the message at hand stands in UTF8 (...)
	fault    error     // why nothing will be appended; the rest is read first
}

var messageBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooledMessage is the largest buffer of a message that is kept.
const maxPooledMessage = 1 << 20

// checkedFirst is the size of a message from which on the mailbox is looked
// for before its sender is asked for it.
const checkedFirst = 64 << 10

// slowest is how slowly a message may come (octets a second), since memory is
// kept for all of it.
const slowest = 2 << 10

// appendMessages is APPEND with one message or several (RFC 3502).
func (s *session) appendMessages(rest int, lit imapwire.Literal, has bool) error {
	a := appending{s: s}
	defer a.release()
	lit, has, err := a.readName(rest, lit, has)
	for more := true; err == nil && more; {
		if err = a.readHead(lit, has); err == nil {
			lit, has, more, err = a.readMessage(lit)
		}
	}
	if err == nil {
		err = a.fault
	}
	if err != nil {
		return err
	}
	validity, uids, err := s.account.Append(s.ctx, a.name, a.msgs)
	if err != nil {
		return tryCreate(err)
	}
	s.done = true
	b := imapwire.AppendNumber([]byte("[APPENDUID "), validity)
	b = imapwire.AppendSet(append(b, ' '), uids)
	s.code = string(append(b, ']'))
	return nil
}

func (a *appending) release() {
	for _, b := range a.buffers {
		if cap(*b) <= maxPooledMessage {
			messageBuffers.Put(b)
		}
	}
	a.s.srv.appending.Add(-a.reserved)
}

// refuse ends the command at a literal.
func (a *appending) refuse(lit imapwire.Literal, has bool, answer error) error {
	if err := a.s.skip(lit, has); err != nil {
		return err
	}
	return answer
}

// readName takes the mailbox name, which may be a literal.
func (a *appending) readName(rest int, lit imapwire.Literal, has bool) (imapwire.Literal, bool, error) {
	s := a.s
	s.p.Reset(s.r.Text(), rest)
	if s.p.SP(); s.p.Peek() == '{' && has {
		var err error
		if lit, has, err = s.inline(lit); err != nil {
			return lit, has, err
		}
		s.p.Reset(s.r.Text(), rest)
		s.p.SP()
	}
	name, err := s.mailboxName("TRYCREATE")
	a.name = name
	if e := s.p.Err(); e != nil {
		err = e
	}
	if err != nil {
		err = a.refuse(lit, has, err)
	}
	return lit, has, err
}

// readHead takes a space, flags and date of a message, up to the header of its
// literal at the end of the line.
func (a *appending) readHead(lit imapwire.Literal, has bool) error {
	p := &a.s.p
	var flags flagSet
	var m mailbox.AppendMessage
	p.SP()
	if p.Peek() == '(' {
		p.List(func() { flags.flag(p) })
		p.SP()
	}
	if p.Peek() == '"' {
		if date := p.DateTime(); p.Err() == nil {
			m.InternalDate = time.Unix(0, nanos(date))
		}
		p.SP()
	}
	if a.wrapped = p.HasWord("UTF8"); a.wrapped { // RFC 6855 4
		p.SP()
		p.Expect('(')
		if !a.s.utf8 {
			p.Fail("UTF8=ACCEPT is not enabled")
		} else if !lit.Binary {
			p.Fail("literal8 expected")
		}
	}
	if has && lit.Binary {
		p.Expect('~')
	}
	if !has || p.Offset() != bytes.LastIndexByte(a.s.r.Text(), '{') {
		p.Fail("message expected as a literal")
	}
	if err := p.Err(); err != nil {
		return a.refuse(lit, has, err)
	}
	m.Flags, m.Keywords = flags.system, flags.keywords
	a.msgs = append(a.msgs, m)
	return a.admit(lit)
}

// admit refuses a message that cannot be taken before it is sent, if its
// sender waits.
func (a *appending) admit(lit imapwire.Literal) error {
	s := a.s
	switch {
	case lit.Size > s.srv.appendLimit():
		return a.refuse(lit, true, no("TOOBIG", "Message too large"))
	case lit.Size == 0: // RFC 3502 6.3.11: given up
		return a.refuse(lit, true, no("CANNOT", "Message is empty"))
	case len(a.msgs) > maxMultiAppend:
		return a.refuse(lit, true, no("LIMIT", "Too many messages at once"))
	}
	if !lit.NonSync && lit.Size >= checkedFirst {
		if _, err := s.account.Status(s.ctx, a.name); err != nil {
			return tryCreate(err)
		}
	}
	if s.srv.appending.Add(lit.Size) > s.srv.cfg.AppendMemory {
		s.srv.appending.Add(-lit.Size)
		return a.refuse(lit, true, no("UNAVAILABLE", "Too many messages are being received, try again"))
	}
	a.reserved += lit.Size
	return nil
}

// readMessage reads the octets of a message and the line behind them. more is
// set when that line announces another message.
func (a *appending) readMessage(lit imapwire.Literal) (next imapwire.Literal, has, more bool, err error) {
	s := a.s
	if err = s.proceed(lit); err != nil {
		return
	}
	buffer := messageBuffers.Get().(*[]byte)
	if int64(cap(*buffer)) < lit.Size {
		*buffer = make([]byte, lit.Size)
	}
	a.buffers = append(a.buffers, buffer)
	octets := (*buffer)[:lit.Size]
	s.conn.until = time.Now().Add(s.srv.cfg.IOTimeout + time.Duration(lit.Size/slowest)*time.Second)
	err = s.r.ReadFull(octets)
	s.conn.until = time.Time{}
	if err != nil {
		return next, false, false, ioError{err}
	}
	a.msgs[len(a.msgs)-1].Bytes = octets
	if bytes.IndexByte(octets, 0) >= 0 && a.fault == nil {
		a.fault = no("UNKNOWN-CTE", "Messages with NUL are not stored")
	}
	line, err := s.r.Line()
	switch {
	case errors.Is(err, imapwire.ErrLineTooLong):
		return next, false, false, s.skipLong()
	case err != nil:
		return next, false, false, ioError{err}
	}
	next, has = imapwire.CommandLiteral(line)
	s.p.Reset(line, 0)
	if a.wrapped {
		s.p.Expect(')')
	}
	if s.p.AtEnd() {
		return next, has, false, nil
	}
	if s.p.Peek() != ' ' {
		err = s.p.End()
		return next, has, false, a.refuse(next, has, err)
	}
	return next, has, true, nil
}

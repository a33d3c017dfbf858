package smtp

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

const (
	// writeBlock is the most that one deadline of DataBlock is for.
	writeBlock = 256 << 10
	// lastWord is how long the reply of a peer that stopped reading is waited for.
	lastWord = time.Second
)

var (
	dotByte   = []byte{'.'}
	dotLine   = []byte("\n.")
	endOfData = []byte(".\r\n")
)

// appendMail prints the MAIL command with the parameters that the peer offers.
func (s *sending) appendMail() {
	m := &s.t.Mail
	b := append(s.out, "MAIL FROM:"...)
	b = appendPath(b, m.From)
	if s.offers("SIZE") {
		b = append(b, " SIZE="...)
		b = append(b, formatInt(s.size)...)
	}
	if s.offers("8BITMIME") {
		switch {
		case s.body.eightBit, m.Body == mail.Body8BitMIME:
			b = append(b, " BODY=8BITMIME"...)
		case m.Body == mail.Body7Bit:
			b = append(b, " BODY=7BIT"...)
		}
	}
	if s.offers("SMTPUTF8") && (m.SMTPUTF8 || !m.From.IsASCII() || s.utf8Rcpt()) {
		b = append(b, " SMTPUTF8"...)
	}
	if s.offers("DSN") {
		b = appendParam(b, "RET", m.Ret)
		b = appendParam(b, "ENVID", m.EnvelopeID)
	}
	if s.offers("AUTH") {
		b = appendParam(b, "AUTH", m.Auth)
	}
	b = appendPrivate(b, m.Private)
	s.out = append(b, '\r', '\n')
}

// utf8Rcpt reports whether a recipient that is sent needs SMTPUTF8.
func (s *sending) utf8Rcpt() bool {
	for _, i := range s.sent {
		if !s.t.Rcpts[i].To.IsASCII() {
			return true
		}
	}
	return false
}

// appendParam prints a parameter with its value as xtext; nothing if it is empty.
func appendParam(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, ' '), key...), '=')
	if key == "AUTH" && value == "<>" || key == "RET" {
		return append(b, value...)
	}
	return appendXtext(b, value)
}

// appendPrivate prints private parameters in the order of their names.
func appendPrivate(b []byte, set map[string]string) []byte {
	if len(set) == 0 {
		return b
	}
	var room [8]string
	keys := room[:0]
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = append(append(b, ' '), k...)
		if v := set[k]; v != "" {
			b = appendXtext(append(b, '='), v)
		}
	}
	return b
}

// checkRcpt returns why a recipient cannot be sent to this peer, nil if it can.
func (s *sending) checkRcpt(r *RcptArgs) *Reply {
	switch {
	case !r.To.IsASCII() && !s.offers("SMTPUTF8"):
		return localUTF8
	case r.To.IsNull(), !sendable(r.To), !privateOK(r.Private):
		return localRcpt
	case r.OriginalRecipient != "":
		kind, addr, _ := strings.Cut(r.OriginalRecipient, ";")
		if !isKeyword(kind) || addr == "" || !isText(addr) {
			return localRcpt
		}
	}
	return nil
}

// appendRcpt prints one RCPT command with the parameters that the peer offers.
func (s *sending) appendRcpt(r *RcptArgs) {
	b := append(s.out, "RCPT TO:"...)
	b = appendPath(b, r.To)
	if s.offers("DSN") {
		if r.Notify != 0 {
			b = append(append(b, " NOTIFY="...), r.Notify.String()...)
		}
		if r.OriginalRecipient != "" {
			kind, addr, _ := strings.Cut(r.OriginalRecipient, ";")
			b = append(append(append(b, " ORCPT="...), kind...), ';')
			b = appendXtext(b, addr)
		}
	}
	b = appendPrivate(b, r.Private)
	s.out = append(b, '\r', '\n')
}

// writeBody writes what is gathered and the body: for DATA with stuffed dots
// and the final dot, for BDAT as it is. Sent is set when its last octet was
// handed over.
func (s *sending) writeBody() error {
	lineStart := true
	for _, seg := range s.t.Body {
		for !s.chunked && s.body.dots > 0 && len(seg) > 0 {
			if lineStart && seg[0] == '.' {
				s.put(dotByte)
			}
			n := len(seg)
			if i := bytes.Index(seg, dotLine); i >= 0 {
				n = i + 1
			}
			s.put(seg[:n])
			lineStart = seg[n-1] == '\n'
			seg = seg[n:]
		}
		s.put(seg)
	}
	if s.openEnd {
		s.put(crlf)
	}
	if !s.chunked {
		s.put(endOfData)
	}
	if s.failed == nil {
		s.failed = s.flush(s.cfg.DataBlock)
	}
	if s.failed != nil {
		return s.lastReply(s.failed)
	}
	s.res.Sent = true
	return nil
}

// put gathers b, writing when there is enough. It does nothing after a failure.
func (s *sending) put(b []byte) {
	for len(b) > 0 && s.failed == nil {
		if len(s.out) == 0 && len(b) >= sendBuffer {
			n := min(len(b), writeBlock)
			s.failed = s.write(b[:n], s.cfg.DataBlock)
			b = b[n:]
			continue
		}
		n := min(len(b), max(sendBuffer-len(s.out), 0))
		s.out = append(s.out, b[:n]...)
		b = b[n:]
		if len(s.out) >= sendBuffer {
			s.failed = s.flush(s.cfg.DataBlock)
		}
	}
}

// lastReply looks for the reply of a peer that closed while the message was
// still being sent.
func (s *sending) lastReply(err error) error {
	if s.answered == len(s.sent) {
		if r, rerr := s.readReply(min(lastWord, s.cfg.DataDone)); rerr == nil && r.Code >= 400 {
			s.setData(r)
			return fmt.Errorf("%w: %w", err, error(r))
		}
	}
	return err
}

// readAnswers reads the replies to the message.
func (s *sending) readAnswers() error {
	s.open = false
	if !s.res.lmtp {
		r, err := s.readReply(s.cfg.DataDone)
		if err != nil {
			return err
		}
		s.res.Data = []*Reply{r}
		return closes(r)
	}
	s.res.Data = make([]*Reply, len(s.t.Rcpts))
	for i, rr := range s.res.Rcpts {
		if rr == nil || !rr.OK() {
			continue
		}
		r, err := s.readReply(s.cfg.DataDone)
		if err != nil {
			return err
		}
		s.res.Data[i] = r
		if err := closes(r); err != nil {
			return err
		}
	}
	return nil
}

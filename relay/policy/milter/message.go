package milter

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

// maxEdits bounds what a filter may change in one message, the parts of a new body
// apart.
const maxEdits = 5000

// maxNotes is how many changes Verdict.Changes names, and maxLeft how many that were
// left out have a line in the log.
const (
	maxNotes = 20
	maxLeft  = 5
)

// wishes are what a filter wants to be changed.
type wishes struct {
	edits
	count      int
	hold       string
	quarantine bool
	addresses  []wish
}

// Message tells of the message and reads the verdict.
func (s *session) Message(ctx context.Context, segments [][]byte) policy.Verdict {
	if s.c != nil && !s.accepted && !s.discard {
		began := time.Now()
		defer func() { metrics.MilterSeconds.Observe(time.Since(began).Seconds()) }()
	}
	v, outcome := s.judge(ctx, segments)
	if outcome != "" {
		s.f.count(outcome)
	}
	s.forget()
	return v
}

// judge returns the verdict and its name, "" if it has been counted.
func (s *session) judge(ctx context.Context, segments [][]byte) (policy.Verdict, string) {
	switch {
	case s.refuse != nil:
		return policy.Verdict{Reply: s.refuse}, s.outcome("")
	case s.discard:
		s.Reset()
		return policy.Verdict{Discard: true}, "discard"
	case s.over, s.accepted:
		s.Reset()
		return policy.Verdict{}, s.outcome("pass")
	}
	var msg []byte
	if len(segments) == 1 {
		msg = segments[0]
	} else {
		msg = bytes.Join(segments, nil)
	}
	cfg := &s.f.cfg
	defer s.c.begin(ctx, cfg.CommandTimeout, cfg.MessageTotal, cfg.MaxReply)()
	p := split(msg)
	d, err := s.tell(p)
	if err != nil {
		return s.failed(ctx, "message", err)
	}
	if d.code != respContinue {
		s.Reset()
		return s.verdict(d)
	}
	s.c.wait = cfg.MessageTimeout
	var w wishes
	d, err = s.eom(&w)
	if err != nil {
		return s.failed(ctx, evEOM.name, err)
	}
	s.open = false
	if d.code != respContinue && d.code != respAccept {
		return s.verdict(d)
	}
	v, err := s.changed(&w, p)
	if err != nil {
		return s.failed(ctx, evEOM.name, err)
	}
	switch {
	case v.Hold != "":
		return v, "hold"
	case v.Changes != "":
		return v, "changed"
	}
	return v, "pass"
}

// outcome is o, or that the filter failed before this message.
func (s *session) outcome(o string) string {
	if s.broken {
		return "failed"
	}
	return o
}

func (s *session) failed(ctx context.Context, stage string, err error) (v policy.Verdict, outcome string) {
	if err := s.fail(ctx, stage, err); err != nil {
		v.Reply = s.refuse
	}
	return v, ""
}

// verdict is one that changes nothing.
func (s *session) verdict(d decision) (policy.Verdict, string) {
	switch {
	case d.reply == nil && d.code == respDiscard:
		return policy.Verdict{Discard: true}, "discard"
	case d.reply == nil:
		return policy.Verdict{}, "pass"
	}
	if d.code == respShutdown {
		s.refuse = d.reply
		s.hangUp()
	}
	s.f.refused(d.reply)
	return policy.Verdict{Reply: d.reply}, ""
}

// tell tells of all of a message but its end, as long as the filter says that this
// goes on.
func (s *session) tell(p parts) (decision, error) {
	d, err := s.ask(evData, nil)
	if err != nil || d.code != respContinue {
		return d, err
	}
	var data []byte
	for _, f := range p.fields {
		if s.protocol&noHeader != 0 {
			break
		}
		data = append(append(data[:0], f.name...), 0)
		data = append(append(data, f.value(s.protocol&leadSpace != 0)...), 0)
		d, err = s.ask(evHeader, data)
		if err != nil || d.code != respContinue && d.code != respSkip {
			return d, err
		}
		if d.code == respSkip {
			break
		}
	}
	if d, err = s.ask(evEOH, nil); err != nil || d.code != respContinue {
		return d, err
	}
	for body := p.body; len(body) > 0 && s.protocol&noBody == 0; {
		n := min(len(body), chunk)
		d, err = s.ask(evBody, body[:n])
		if err != nil || d.code != respContinue && d.code != respSkip {
			return d, err
		}
		if d.code == respSkip {
			break
		}
		body = body[n:]
	}
	return decision{code: respContinue}, nil
}

// eom tells of the end of a message and reads what is to be changed, and the word
// that follows.
func (s *session) eom(w *wishes) (decision, error) {
	if macros := s.values.append([]byte{cmdEOM}, s.lists[stageEOM]); len(macros) > 1 {
		s.c.packet(cmdMacros, macros)
	}
	s.c.packet(cmdEOM, nil)
	s.c.hurry = true
	defer func() { s.c.hurry = false }()
	for {
		code, data, err := s.c.answer()
		if err != nil {
			return decision{}, err
		}
		ok, err := w.read(code, data)
		if err != nil {
			return decision{}, err
		}
		if ok {
			continue
		}
		d, err := decide(code, data)
		if err == nil && d.code == respSkip {
			err = fmt.Errorf("answer %q at the end", code)
		}
		return d, err
	}
}

var errShort = errors.New("a change ends too early")

// read reads one change; ok says that it was one.
func (w *wishes) read(code byte, data []byte) (ok bool, err error) {
	e := edit{code: code}
	switch code {
	case respBody:
		w.body, w.newBody = append(w.body, data...), true
		return true, nil
	case respChgHeader, respInsHeader:
		if len(data) < 4 {
			return true, errShort
		}
		e.index, data = binary.BigEndian.Uint32(data), data[4:]
	case respAddHeader, respAddRcpt, respAddRcpt2, respDelRcpt, respChgFrom, respQuarant:
	default:
		return false, nil
	}
	if w.count++; w.count > maxEdits {
		return true, errTooMuch
	}
	var first string
	if first, data, ok = cutString(data); !ok {
		return true, errShort
	}
	switch code {
	case respChgHeader, respInsHeader, respAddHeader:
		e.name = first
		if e.value, data, ok = cutString(data); !ok {
			return true, errShort
		}
		w.header = append(w.header, e)
	case respQuarant:
		w.hold, w.quarantine = first, true
	default:
		// ESMTP arguments may follow. What they ask for is the sender's to ask.
		if code == respAddRcpt2 || code == respChgFrom {
			if _, rest, ok := cutString(data); ok {
				data = rest
			}
		}
		w.addresses = append(w.addresses, wish{code, first})
	}
	if len(data) > 0 {
		return true, fmt.Errorf("change %q has %d octets too many", code, len(data))
	}
	return true, nil
}

// changed makes the verdict of what the filter wants to be changed. What it cannot
// mean is left out.
func (s *session) changed(w *wishes, p parts) (v policy.Verdict, err error) {
	n := 0
	left := func(why string) {
		if n++; n <= maxLeft {
			s.f.cfg.Log.Warn("change by a filter left out", "filter", s.f.cfg.Name, "queue_id", s.m.QueueID, "reason", why)
		}
	}
	var notes []string
	v.Message, notes, err = w.apply(p, s.protocol&leadSpace != 0, left)
	if err != nil {
		return policy.Verdict{}, err
	}
	for _, a := range w.addresses {
		s.envelope(&v, a, left)
	}
	if v.ReversePath != nil {
		notes = append(notes, "sender changed")
	}
	notes = append(notes, counted(len(v.Add), "added")...)
	notes = append(notes, counted(len(v.Remove), "removed")...)
	if n > maxLeft {
		s.f.cfg.Log.Warn("changes by a filter left out", "filter", s.f.cfg.Name, "queue_id", s.m.QueueID, "more", n-maxLeft)
	}
	if n := len(notes) - maxNotes; n > 0 {
		notes = append(notes[:maxNotes], fmt.Sprintf("%d more", n))
	}
	v.Changes = strings.Join(notes, ", ")
	if w.quarantine {
		if v.Hold = printable(w.hold); v.Hold == "" {
			v.Hold = "quarantined by " + s.f.cfg.Name
		}
	}
	return v, nil
}

func counted(n int, what string) []string {
	switch n {
	case 0:
		return nil
	case 1:
		return []string{"1 recipient " + what}
	}
	return []string{fmt.Sprintf("%d recipients %s", n, what)}
}

// wish is a change of the envelope.
type wish struct {
	code byte
	addr string
}

// envelope does one change of the envelope.
func (s *session) envelope(v *policy.Verdict, w wish, left func(why string)) {
	a, err := parsePath(w.addr)
	if err != nil || a.IsNull() && w.code != respChgFrom {
		left(fmt.Sprintf("%.80q is no address", printable(w.addr)))
		return
	}
	if !a.IsASCII() && !s.m.SMTPUTF8 {
		left(fmt.Sprintf("%.80q needs SMTPUTF8", printable(w.addr)))
		return
	}
	same := func(b mail.Address) bool {
		return strings.EqualFold(a.Local, b.Local) && strings.EqualFold(a.Domain, b.Domain)
	}
	switch w.code {
	case respChgFrom:
		v.ReversePath = &a
	case respDelRcpt:
		n := len(v.Add) + len(v.Remove)
		v.Add = slices.DeleteFunc(v.Add, same)
		for _, r := range s.recipients {
			if same(r) && !slices.Contains(v.Remove, r) {
				v.Remove = append(v.Remove, r)
			}
		}
		if n == len(v.Add)+len(v.Remove) {
			left("the recipient to remove is none")
		}
	default:
		v.Remove = slices.DeleteFunc(v.Remove, same)
		if !slices.ContainsFunc(s.recipients, same) && !slices.ContainsFunc(v.Add, same) {
			v.Add = append(v.Add, a)
		}
	}
}

// parsePath reads an address with its angle brackets or without.
func parsePath(s string) (mail.Address, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return mail.Address{}, nil
	}
	if s[0] != '<' {
		return mail.ParseAddress(s, true)
	}
	a, rest, err := mail.ParsePath(s, true)
	if err == nil && rest != "" {
		err = mail.ErrAddressSyntax
	}
	return a, err
}

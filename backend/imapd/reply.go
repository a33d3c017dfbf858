package imapd

import (
	"context"
	"errors"
	"strings"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// reply is a tagged NO or BAD.
type reply struct {
	status, code, text string
	mild               bool // not counted as a fault of the client
}

func (r *reply) Error() string { return r.status + " " + r.text }

func no(code, text string) error { return &reply{status: "NO", code: code, text: text} }

func bad(text string) error { return &reply{status: "BAD", text: text} }

// farewell ends the session with BYE, without a tagged answer.
type farewell struct{ code, text string }

func (f *farewell) Error() string { return "BYE " + f.text }

func bye(code, text string) error { return &farewell{code, text} }

// ioError is a failure of the connection.
type ioError struct{ err error }

func (e ioError) Error() string { return e.err.Error() }
func (e ioError) Unwrap() error { return e.err }

var (
	errOver = errors.New("session is over")              // all is said
	errCut  = errors.New("response cannot be completed") // nothing more can be said
)

// errorReplies says how errors of package mailbox are answered.
var errorReplies = []struct {
	err        error
	code, text string
}{
	{mailbox.ErrNoMailbox, "NONEXISTENT", "No such mailbox"},
	{mailbox.ErrExists, "ALREADYEXISTS", "Mailbox exists"},
	{mailbox.ErrBadName, "CANNOT", "Not possible with this mailbox name"},
	{mailbox.ErrHasChildren, "HASCHILDREN", "Mailbox has children"},
	{mailbox.ErrOverQuota, "OVERQUOTA", "Quota exceeded"},
	{mailbox.ErrTooBig, "TOOBIG", "Message too large"},
	{mailbox.ErrReadOnly, "READ-ONLY", "Mailbox was opened read-only"},
	{mailbox.ErrExpunged, "EXPUNGEISSUED", "Message is no longer there"},
	{mailbox.ErrLimit, "LIMIT", "A limit of the mailbox is reached"},
	{mailbox.ErrNoRoom, "UNAVAILABLE", "No room for mail on the server, try again later"},
	{mailbox.ErrBusy, "UNAVAILABLE", "Too much to do, try again"},
	{mailbox.ErrSpecialUse, "USEATTR", "Special use not possible"},
	{mailbox.ErrOwner, "CANNOT", "The owner has all rights and keeps them"},
	{mailbox.ErrInbox, "CANNOT", "INBOX takes mail from anyone"},
	{mailbox.ErrIdentifier, "CANNOT", "Rights are given to anyone, anyone@ a domain, an address or a group's, and with - taken from them"},
	{mailbox.ErrNotShared, "CANNOT", "Others can only have the right p: mailboxes are not shared"},
	{mailbox.ErrLevel, "CANNOT", "Not before all servers of the mailbox are of the new release"},
}

// known turns an error of package mailbox into its answer; nil when the error
// says that nothing is known.
func known(err error) error {
	if errors.Is(err, mailbox.ErrUnknownState) {
		return nil
	}
	for i := range errorReplies {
		if errors.Is(err, errorReplies[i].err) {
			return no(errorReplies[i].code, errorReplies[i].text)
		}
	}
	return nil
}

// answer ends a command: changes of the mailbox, and the tagged answer. It
// returns the status that was sent, "" for none, and whether the session goes
// on.
func (s *session) answer(err error) (status string, goesOn bool) {
	var r *reply
	if err == nil || errors.As(err, &r) && r.status == "NO" {
		// Where it is too late to tell changes, a change that was made is answered
		// all the same.
		if e := s.tellChanges(); e != nil && !(s.done && s.resumes && notServing(e)) {
			err, r = e, nil
		}
	}
	var syntax *imapwire.SyntaxError
	switch {
	case err == nil:
		s.tagged("OK", s.code, s.okText())
		s.bad = 0
		return "OK", true
	case errors.As(err, &r):
	case errors.As(err, &syntax):
		r = &reply{status: "BAD", text: syntax.Error()}
	default:
		if e := known(err); e != nil {
			r = e.(*reply)
			break
		}
		s.end(err)
		return "", false
	}
	code := r.code
	if code != "" {
		code = "[" + code + "]"
	}
	s.tagged(r.status, code, r.text)
	if r.status != "BAD" || r.mild {
		s.bad = 0
		return r.status, true
	}
	if s.bad++; s.bad >= maxBad {
		s.w.WriteString("* BYE Too many errors\r\n")
		return r.status, false
	}
	return r.status, true
}

func (s *session) okText() string {
	if s.text != "" {
		return s.text
	}
	return "Done"
}

func (s *session) tagged(status, code, text string) {
	b := append(append(append(s.w.B, s.tag...), ' '), status...)
	b = append(b, ' ')
	if code != "" {
		b = append(append(b, code...), ' ')
	}
	s.w.B = append(append(b, text...), "\r\n"...)
}

// tellChanges tells what others changed, before a tagged answer.
func (s *session) tellChanges() error {
	if s.cmd == nil || s.view == nil || s.cmd.quiet {
		return nil
	}
	return s.update(!s.cmd.fixed || s.uid, s.cmd.always)
}

// end says why the session ends in the middle of a command.
func (s *session) end(err error) {
	var (
		f   *farewell
		io  ioError
		not *mailbox.ErrNotServing
		mov *mailbox.ErrMoved
	)
	switch {
	case errors.As(err, &mov):
		s.w.WriteString("* BYE [UNAVAILABLE] The mailbox moves to another server, connect again\r\n")
	case errors.Is(err, errOver), errors.Is(err, errCut):
	case errors.As(err, &f):
		s.w.WriteString("* BYE ")
		if f.code != "" {
			s.w.WriteString("[" + f.code + "] ")
		}
		s.w.WriteString(f.text + "\r\n")
	case errors.As(err, &io):
		s.readFailed(io.err)
	case errors.As(err, &not):
		s.byeNotServing(not)
	case errors.Is(err, context.Canceled) && s.ctx.Err() != nil:
		s.w.WriteString("* BYE [UNAVAILABLE] Server shuts down\r\n")
	default:
		name := ""
		if s.cmd != nil {
			name = s.cmd.name
		}
		s.srv.cfg.Log.Error("imap command has an unknown outcome", "command", name, "account", s.accountName(), "peer", s.peer(), "err", err)
		s.w.WriteString("* BYE [UNAVAILABLE] It is not known whether the command was done\r\n")
	}
}

func notServing(err error) bool {
	var not *mailbox.ErrNotServing
	return errors.As(err, &not)
}

func (s *session) accountName() string {
	if s.account == nil {
		return ""
	}
	return s.account.Name()
}

// oneLine is text without line ends, for responses.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

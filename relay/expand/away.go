package expand

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// usualPause is the least time between two replies to one sender when neither
// the entry nor its domain says.
const usualPause = 7 * 24 * time.Hour

// away is how the message in hand is answered for the user e, nil for not at
// all (directory.md 10).
func (w *walk) away(r mail.Recipient, d *directory.Domain, e *directory.Entry) (*mail.Autoreply, error) {
	a := e.Away
	say := func(attribute, text string) { w.rule(r.Address, e.DN, "10", attribute, text, nil) }
	switch {
	case a == nil:
		say("mailAutoReplyText", "nothing to answer with")
		return nil, nil
	case r.ListName != "":
		say("", "not answered: it came by a list") // RFC 3834 2
		return nil, nil
	case w.env == nil || w.env.ReversePath.IsNull():
		say("", "not answered: null reverse-path")
		return nil, nil
	}
	from, err := mail.ParseAddress(e.Mail, true)
	if err != nil {
		w.x.alarms.raise("user who answers mail has no usable mail address: "+e.Mail, e.DN, r.Address, err)
		return nil, nil
	}
	if _, ok := w.x.cfg.Pair(e.MailHost); !ok {
		say("mailHost", "not answered: no pair that remembers who was")
		return nil, nil
	}
	out := &mail.Autoreply{From: from, Me: own(e, a)}
	if !w.caught { // in an alias of the domain, with a subaddress
		out.Me = append(out.Me, r.Address)
	}
	switch a.Mode {
	case "reply", "vacation":
		out.Mode = mail.AutoreplyReply
	case "echo":
		out.Mode = mail.AutoreplyEcho
	default:
		out.Mode = mail.AutoreplyHeader
	}
	language, err := w.language(r, a)
	if err != nil {
		return nil, err
	}
	sender, _ := directory.NormalizeDomain(w.env.ReversePath.Domain)
	inside := d != nil && d.HasName(sender)
	out.Subject = directory.In(a.Subject, language)
	out.Text = directory.In(a.Text, language)
	which := "mailAutoReplyText"
	if inside && len(a.Internal) > 0 {
		out.Text, which = directory.In(a.Internal, language), "mailAutoReplyTextInternal"
	}
	if !inside && out.Text == "" {
		say(which, "not answered: no text for senders outside")
		return nil, nil
	}
	out.Text = strings.TrimRight(out.Text, "\n") + "\n"
	if out.Mode != mail.AutoreplyEcho {
		out.Timeout = pause(d, a)
	}
	say(which, "answered, mode "+string(out.Mode))
	return out, nil
}

func pause(d *directory.Domain, a *directory.Away) time.Duration {
	hours := a.Hours
	if hours < 0 && d != nil {
		hours = d.AutoReplyTimeout
	}
	if hours < 0 || hours > 24*365*100 || hours == 0 && a.Hours != 0 {
		return usualPause
	}
	return time.Duration(hours) * time.Hour
}

// own are the addresses by which the user may be named in a header.
func own(e *directory.Entry, a *directory.Away) []mail.Address {
	var out []mail.Address
	for _, list := range [][]string{{e.Mail}, e.Alternate, e.Equivalent, a.Me} {
		for _, v := range list {
			if addr, err := mail.ParseAddress(strings.TrimSpace(v), true); err == nil {
				out = append(out, addr)
			}
		}
	}
	return out
}

// language is the sender's, when it makes a difference and we know the sender.
func (w *walk) language(r mail.Recipient, a *directory.Away) (string, error) {
	tagged := false
	for _, list := range [][]directory.Tagged{a.Subject, a.Text, a.Internal} {
		for _, t := range list {
			tagged = tagged || t.Language != ""
		}
	}
	if !tagged {
		return "", nil
	}
	return w.languages(r.Address, w.env.ReversePath)
}

// languages are those that a person prefers, or whose domain does; "" for who
// is not ours, or says nothing. rcpt is for the error.
func (w *walk) languages(rcpt, person mail.Address) (string, error) {
	name, err := directory.NormalizeDomain(person.Domain)
	if err != nil {
		return "", nil
	}
	d, err := w.x.cfg.Directory.Domain(w.ctx, name)
	if err != nil {
		return "", w.unlessClean(rcpt, err)
	}
	ans, err := w.x.cfg.Directory.Lookup(w.ctx, d, mail.Address{Local: person.Local, Domain: name})
	if err != nil {
		return d.Language, w.unlessClean(rcpt, err)
	}
	if e, err := directory.Sole(ans.Entries); err == nil && !ans.CatchAll && e.Language != "" {
		return e.Language, nil
	}
	return d.Language, nil
}

// unlessClean is the answer when the directory could not say, nil when it said
// that there is nothing.
func (w *walk) unlessClean(rcpt mail.Address, err error) error {
	if errors.Is(err, directory.ErrNotFound) || errors.Is(err, directory.ErrAmbiguous) {
		return nil
	}
	return w.unknown(rcpt, err)
}

// Languages are those that a person prefers, or whose domain does, as
// preferredLanguage has them (directory.md 3 and 14); "" for who is not ours, or
// says nothing. The error is the directory's.
func (x *Expander) Languages(ctx context.Context, person mail.Address) (string, error) {
	w := walk{x: x, ctx: ctx}
	return w.languages(person, person)
}

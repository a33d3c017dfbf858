package expand

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Reverse returns the primary address of the person who has a as an alternate
// address, and a itself in every other case: the primary address, equivalent
// ones, those of other domains and of nobody (directory.md 15). The error is
// the directory's.
func (x *Expander) Reverse(ctx context.Context, a mail.Address) (mail.Address, error) {
	w := walk{x: x, ctx: ctx}
	e, err := w.lookup(a)
	switch {
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return a, nil
	case err != nil:
		return a, err
	}
	text := a.String()
	alternate := false
	for _, v := range e.Alternate {
		alternate = alternate || strings.EqualFold(v, text)
	}
	for _, v := range e.Equivalent {
		alternate = alternate && !strings.EqualFold(v, text)
	}
	if !alternate || strings.EqualFold(e.Mail, text) {
		return a, nil
	}
	primary, err := mail.ParseAddress(e.Mail, true)
	if err != nil {
		x.alarms.raise("primary address is not well formed: "+e.Mail, e.DN, a, err)
		return a, nil
	}
	return primary, nil
}

// Guaranteed reports whether what user, who has logged in, submits goes by a
// channel of guaranteed delivery (directory.md 14, mailSMTPSubmitChannel).
func (x *Expander) Guaranteed(ctx context.Context, user string) (bool, error) {
	if len(x.cfg.Guaranteed) == 0 {
		return false, nil
	}
	e, err := x.cfg.Directory.Login(ctx, user)
	switch {
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return false, nil
	case err != nil:
		w := walk{x: x, ctx: ctx}
		return false, w.unknown(mail.Address{}, err)
	}
	return e.SubmitChannel != "" && slices.ContainsFunc(x.cfg.Guaranteed, func(c string) bool { return strings.EqualFold(c, e.SubmitChannel) }), nil
}

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

// Submission is what the directory says of all that a user submits.
type Submission struct {
	// Guaranteed: it goes by a channel of guaranteed delivery (directory.md 14,
	// mailSMTPSubmitChannel).
	Guaranteed bool
	Recipients int   // RCPTs of one message, 0 without limit (directory.md 5, stage 5)
	Size       int64 // octets of one message, 0 without limit
}

// Admits refuses a message of more octets than the user may submit.
func (s Submission) Admits(size int64) error {
	if s.Size == 0 || size <= s.Size {
		return nil
	}
	return &mail.Error{Op: "expand.Submission", Code: 552, Status: mail.Status{5, 2, 3}, Reply: "Message too big for this user"}
}

// Submission finds out about user, who has logged in.
func (x *Expander) Submission(ctx context.Context, user string) (Submission, error) {
	e, err := x.cfg.Directory.Login(ctx, user)
	switch {
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return Submission{}, nil
	case err != nil:
		w := walk{x: x, ctx: ctx}
		return Submission{}, w.unknown(mail.Address{}, err)
	}
	return Submission{
		Guaranteed: e.SubmitChannel != "" && slices.ContainsFunc(x.cfg.Guaranteed, func(c string) bool { return strings.EqualFold(c, e.SubmitChannel) }),
		Recipients: int(min(e.SenderRecipients, 1<<30)), Size: min(e.SenderMaxBlocks, 1<<50) * 1024,
	}, nil
}

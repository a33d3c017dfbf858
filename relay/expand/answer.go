package expand

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Names of the answers, for Config.Texts (directory.md 6 and 13.2).
const (
	ansUnknownUser   = "unknown_user"
	ansUnknownDomain = "unknown_domain"
	ansAmbiguous     = "ambiguous"
	ansDirectory     = "directory"
	ansDomainFault   = "domain_fault"
	ansMisconfigured = "misconfigured"
	ansTooBig        = "too_big"
	ansOverQuota     = "overquota"
	ansLoop          = "loop"
	ansTooDeep       = "too_deep"
	ansEmpty         = "list_empty"
	ansTooLarge      = "list_too_large"
	ansSender        = "list_sender"
	ansDomain        = "list_domain"
	ansAuth          = "list_auth"
	ansPassword      = "list_password"
	ansListSize      = "list_size"
	ansAttachments   = "list_attachments"
	ansSRS           = "srs"
)

// reply is an answer with its usual text.
type reply struct {
	code   int
	status mail.Status
	text   string
}

var answers = map[string]reply{
	ansUnknownUser:   {550, mail.StatusBadMailbox, "No such user here"},
	ansUnknownDomain: {550, mail.StatusBadDomain, "Domain not known"},
	ansAmbiguous:     {550, mail.StatusAmbiguous, "Address is ambiguous"},
	ansDirectory:     {451, mail.StatusDirectoryFailure, "Directory not available, try again later"},
	ansDomainFault:   {451, mail.StatusDirectoryFailure, "Domain not set up correctly, try again later"},
	ansMisconfigured: {451, mail.Status{4, 3, 5}, "Not set up correctly, try again later"},
	ansTooBig:        {552, mail.Status{5, 2, 3}, "Message too big for this recipient"},
	ansOverQuota:     {552, mail.Status{5, 2, 2}, "Mailbox full"},
	ansLoop:          {550, mail.StatusLoop, "Forwarding leads nowhere"},
	ansTooDeep:       {550, mail.StatusLoop, "Too many levels of forwarding or lists"},
	ansEmpty:         {550, mail.Status{5, 2, 4}, "List has no members"},
	ansTooLarge:      {550, mail.Status{5, 5, 3}, "List too large"},
	ansSender:        {550, mail.StatusRefused, "You may not send to this list"},
	ansDomain:        {550, mail.StatusRefused, "Your domain may not send to this list"},
	ansAuth:          {550, mail.StatusRefused, "This list takes mail only from users who have logged in"},
	ansPassword:      {550, mail.StatusRefused, "This list needs an approval"},
	ansListSize:      {552, mail.Status{5, 2, 3}, "Message too big for this list"},
	ansAttachments:   {550, mail.StatusRefused, "Too many attachments for this list"},
	ansSRS:           {550, mail.StatusBadMailbox, "Not a valid return address"},

	"user_inactive": {450, mail.Status{4, 2, 1}, "User inactive, try again later"}, "group_inactive": {450, mail.Status{4, 2, 1}, "Group inactive, try again later"},
	"user_disabled": {550, mail.StatusDisabled, "User disabled"}, "group_disabled": {550, mail.StatusDisabled, "Group disabled"},
	"user_deleted": {550, mail.Status{5, 1, 6}, "User no longer here"}, "group_deleted": {550, mail.Status{5, 1, 6}, "Group no longer here"},
	"domain_inactive": {450, mail.Status{4, 2, 1}, "Domain inactive, try again later"}, "domain_disabled": {550, mail.StatusDisabled, "Domain disabled"},
	"domain_deleted": {550, mail.Status{5, 1, 6}, "Domain no longer here"},
}

// Answers are the names that Config.Texts knows.
func Answers() []string {
	var names []string
	for name := range answers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func checkTexts(texts map[string]string) error {
	for name, text := range texts {
		if _, ok := answers[name]; !ok {
			return fmt.Errorf("expand: no answer is called %q, but %s", name, strings.Join(Answers(), ", "))
		}
		for i := 0; i < len(text); i++ {
			if text[i] < ' ' || text[i] > '~' {
				return fmt.Errorf("expand: text of %s is not printable ASCII", name)
			}
		}
		if text == "" || len(text) > 400 {
			return fmt.Errorf("expand: text of %s has %d octets", name, len(text))
		}
	}
	return nil
}

// answer is the refusal of that name.
func (w *walk) answer(name string, to mail.Address, err error) error {
	return w.x.answer(name, to, err)
}

func (x *Expander) answer(name string, to mail.Address, err error) error {
	a := answers[name]
	text := a.text
	if own := x.cfg.Texts[name]; own != "" {
		text = own
	}
	return &mail.Error{Op: "expand.Rcpt", Rcpt: to, Code: a.code, Status: a.status, Reply: text, Err: err}
}

// unknown is the answer when the directory could not say. It ends the whole
// expansion.
func (w *walk) unknown(to mail.Address, err error) error {
	w.outage = true
	return w.answer(ansDirectory, to, err)
}

// tooLarge is the answer when there are more than MaxFinal deliveries. It ends
// the whole expansion: a list is sent whole or not.
func (w *walk) tooLarge(r mail.Recipient, err error) error {
	w.outage = true
	return w.answer(ansTooLarge, r.Address, err)
}

// misconfigured is the answer when the directory says what cannot be. People
// have to mend it; mail waits.
func (w *walk) misconfigured(to mail.Address, dn, what string, err error) error {
	w.x.alarms.raise(what, dn, to, err)
	return w.answer(ansMisconfigured, to, err)
}

// status answers for a user, group or domain that is not active (directory.md 6).
func (w *walk) status(r mail.Recipient, s directory.Status, what string) error {
	switch s {
	case directory.Hold:
		r.Channel, r.NextHop = mail.ChannelHold, ""
		return w.add(r)
	case directory.Disabled:
		return w.answer(what+"_disabled", r.Address, nil)
	case directory.Deleted, directory.Removed:
		return w.answer(what+"_deleted", r.Address, nil)
	case directory.OverQuota:
		return w.overQuota(r)
	case directory.Unused:
		return w.answer(ansUnknownUser, r.Address, nil)
	}
	return w.answer(what+"_inactive", r.Address, nil)
}

func (w *walk) overQuota(r mail.Recipient) error {
	err := w.answer(ansOverQuota, r.Address, nil)
	if e := mail.AsError("", err); w.x.cfg.OverQuotaTemporary {
		e.Code, e.Status = 452, mail.StatusOverQuota
	}
	return err
}

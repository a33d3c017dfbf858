package expand

import (
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// option is a delivery option that this release knows (directory.md 8.1).
type option uint8

const (
	optMailbox option = 1 << iota
	optForward
	optMembers
	optMembersOffline
	optHold
)

// options reads mailDeliveryOption. Values that are unknown, or not for this
// kind of entry, are ignored; with none left the default applies.
func options(e *directory.Entry) (set option) {
	for _, v := range e.DeliveryOptions {
		v = strings.TrimSpace(v)
		switch {
		case strings.EqualFold(v, "forward"):
			set |= optForward
		case strings.EqualFold(v, "hold"):
			set |= optHold
		case e.Kind == directory.User && strings.EqualFold(v, "mailbox"):
			set |= optMailbox
		case e.Kind == directory.Group && strings.EqualFold(v, "members"):
			set |= optMembers
		case e.Kind == directory.Group && strings.EqualFold(v, "members_offline"):
			set |= optMembersOffline
		}
	}
	switch {
	case set != 0:
		return set
	case e.Kind == directory.Group:
		return optMembers
	}
	return optMailbox
}

// entry expands the entry e of domain d that r.Address belongs to.
func (w *walk) entry(r mail.Recipient, d *directory.Domain, e *directory.Entry) error {
	status, _ := directory.Effective(d, e)
	if w.trace != nil {
		w.note(r.Address, e.DN, e.Kind.String()+", status "+status.String(), nil)
	}
	if status != directory.Active {
		what := "User"
		if e.Kind == directory.Group {
			what = "Group"
		}
		return w.status(r, status, what)
	}
	if e.Kind == directory.User && e.UID == "" {
		return w.misconfigured(r.Address, e.DN, "user has no usable uid", nil)
	}
	set := options(e)
	if set == optMailbox && len(w.path) == 0 {
		return w.mailbox(r, d, e) // almost everybody
	}
	if (r.Folder == "" || set != optMailbox) && w.again(e.DN) {
		w.note(r.Address, e.DN, "left out: reached already", nil)
		return nil
	}
	if set&optHold != 0 {
		r.Channel, r.NextHop = mail.ChannelHold, ""
		return w.add(r)
	}
	if set&optMailbox != 0 {
		if err := w.mailbox(r, d, e); err != nil {
			return err
		}
	}
	if set&(optMembers|optMembersOffline) != 0 {
		if err := w.group(r, e, set&optMembers == 0); err != nil {
			return err
		}
	}
	if set&optForward != 0 {
		return w.forward(r, e, set == optForward)
	}
	return nil
}

// again reports whether the entry was expanded in this walk before: whoever it
// leads to has been reached.
func (w *walk) again(dn string) bool {
	if w.seen[dn] {
		return true
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	w.seen[dn] = true
	return false
}

// status answers for a user, group or domain that is not active (directory.md 6).
func (w *walk) status(r mail.Recipient, s directory.Status, what string) error {
	switch s {
	case directory.Hold:
		r.Channel, r.NextHop = mail.ChannelHold, ""
		return w.add(r)
	case directory.Disabled:
		return refuse(r.Address, 550, mail.StatusDisabled, what+" disabled", nil)
	case directory.Deleted, directory.Removed:
		return refuse(r.Address, 550, mail.Status{5, 1, 6}, what+" no longer here", nil)
	case directory.OverQuota:
		if w.x.cfg.OverQuotaTemporary {
			return refuse(r.Address, 452, mail.StatusOverQuota, "Mailbox full", nil)
		}
		return refuse(r.Address, 552, mail.Status{5, 2, 2}, "Mailbox full", nil)
	case directory.Unused:
		return refuse(r.Address, 550, mail.StatusBadMailbox, "No such user here", nil)
	}
	return refuse(r.Address, 450, mail.Status{4, 2, 1}, what+" inactive, try again later", nil)
}

// mailbox delivers to the user's pair.
func (w *walk) mailbox(r mail.Recipient, d *directory.Domain, e *directory.Entry) error {
	pair, ok := w.x.cfg.Pair(e.MailHost)
	if !ok {
		return w.misconfigured(r.Address, e.DN, "mailHost of user names no pair: "+e.MailHost, nil)
	}
	r.Channel, r.NextHop, r.Mailbox, r.Quota = mail.ChannelLMTP, pair, e.Mailbox, e.Quota
	if r.Mailbox == "" { // not found by address: the entry does not know its domain
		r.Mailbox = e.UID + "@" + d.Name
	}
	return w.add(r)
}

// forward resolves each forwarding address from the start. alone says that
// there is no other option.
func (w *walk) forward(r mail.Recipient, e *directory.Entry, alone bool) error {
	via, err := w.enter(r, e)
	if err != nil {
		return err
	}
	defer w.leave()
	tried := 0
	for _, value := range e.Forwarding {
		to, err := mail.ParseAddress(strings.TrimSpace(value), true)
		if err != nil {
			w.x.alarms.raise("forwarding address is not well formed: "+value, e.DN, r.Address, err)
			continue
		}
		tried++
		if err := w.step(r, to, via, nil, nil); err != nil {
			return err
		}
	}
	if tried == 0 && alone {
		return w.misconfigured(r.Address, e.DN, "user forwards to nobody", nil)
	}
	return nil
}

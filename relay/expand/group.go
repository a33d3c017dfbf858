package expand

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// posting are the attributes that say who may send to a group. While nothing
// here reads them, a group that has one is closed rather than open to all.
var posting = []string{
	"mgrpAllowedBroadcaster", "mgrpDisallowedBroadcaster", "mgrpAllowedDomain", "mgrpDisallowedDomain",
	"mgrpBroadcasterPolicy", "mgrpAuthPassword", "mgrpModerator", "mgrpMsgMaxSize",
}

// group expands the members of e, or puts a large group off.
func (w *walk) group(r mail.Recipient, e *directory.Entry) error {
	for _, name := range posting {
		if e.Raw.First(name) != "" {
			w.x.cfg.Log.Error("group has posting rules, which this release cannot check", "dn", e.DN, "attribute", name)
			return refuse(r.Address, 451, mail.Status{4, 3, 5}, "List's rules cannot be checked yet", nil)
		}
	}
	members, err := w.members(r, e)
	if err != nil {
		return err
	}
	if members == nil {
		r.Channel, r.NextHop, r.ListName = mail.ChannelReprocess, "", e.Mail
		return w.add(r)
	}
	for _, to := range members {
		if err := w.step(r, to, e.Mail); err != nil {
			if !mail.Permanent(err) { // nothing is sent to half a list
				return err
			}
			w.x.cfg.Log.Warn("member refused", "dn", e.DN, "member", to.String(), "error", err)
		}
	}
	return nil
}

// members are the addresses of e's members; nil when there are more than may
// be expanded now.
func (w *walk) members(r mail.Recipient, e *directory.Entry) ([]mail.Address, error) {
	limit := w.x.cfg.ListLimit
	if w.now {
		limit = MaxFinal
	}
	members := make([]mail.Address, 0, len(e.MemberAddresses)+len(e.MemberDNs))
	add := func(text, where string) {
		text = strings.TrimSpace(text)
		if len(text) > 7 && strings.EqualFold(text[:7], "mailto:") {
			text = text[7:]
		}
		a, err := mail.ParseAddress(text, true)
		if err != nil {
			w.x.cfg.Log.Warn("member address not well formed", "dn", e.DN, "where", where, "value", text)
			return
		}
		members = append(members, a)
	}
	if len(e.MemberAddresses)+len(e.MemberDNs) > limit {
		return w.tooMany(r)
	}
	for _, text := range e.MemberAddresses {
		add(text, "address")
	}
	for _, dn := range e.MemberDNs {
		m, err := w.x.cfg.Directory.Entry(w.ctx, dn)
		switch {
		case errors.Is(err, directory.ErrNotFound):
			w.x.cfg.Log.Warn("member has no entry", "dn", e.DN, "member", dn)
		case err != nil:
			return nil, failed(r.Address, err)
		case m.Mail != "": // members without an address are skipped (13.3)
			add(m.Mail, dn)
		}
	}
	for _, url := range e.MemberURLs {
		found, err := w.x.cfg.Directory.Search(w.ctx, url, limit-len(members)+1)
		switch {
		case errors.Is(err, directory.ErrTooMany):
			return w.tooMany(r)
		case errors.Is(err, directory.ErrURL):
			w.x.cfg.Log.Error("member URL leads outside the directory", "dn", e.DN, "url", url, "error", err)
			return nil, refuse(r.Address, 451, mail.Status{4, 3, 5}, "List not set up correctly", err)
		case err != nil && !errors.Is(err, directory.ErrNotFound):
			return nil, failed(r.Address, err)
		}
		for _, m := range found {
			if m.Mail != "" {
				add(m.Mail, url)
			}
		}
	}
	if len(members) > limit {
		return w.tooMany(r)
	}
	return members, nil
}

func (w *walk) tooMany(r mail.Recipient) ([]mail.Address, error) {
	if w.now {
		return nil, refuse(r.Address, 550, mail.Status{5, 5, 3}, "List too large", nil)
	}
	return nil, nil
}

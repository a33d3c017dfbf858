package expand

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// address expands r.Address.
func (w *walk) address(r mail.Recipient) error {
	if err := w.ctx.Err(); err != nil {
		return w.unknown(r.Address, err)
	}
	name, err := directory.NormalizeDomain(r.Address.Domain)
	if err != nil || strings.HasPrefix(name, "[") {
		return w.answer(ansUnknownDomain, r.Address, err)
	}
	if w.x.cfg.SRS != nil && isSRS(r.Address.Local) && w.x.cfg.SRS.owns(name) {
		return w.returned(r)
	}
	d, err := w.x.cfg.Directory.Domain(w.ctx, name)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		w.rule(r.Address, "", "2.3", "", "domain is not ours", nil)
		r.Channel, r.NextHop = mail.ChannelSMTP, name
		return w.add(r)
	case errors.Is(err, directory.ErrAmbiguous):
		w.x.alarms.raise("domain is claimed by more than one organization", name, r.Address, err)
		return w.answer(ansDomainFault, r.Address, err)
	case err != nil:
		return w.unknown(r.Address, err)
	}
	w.reporter(&r, d)
	if len(d.RoutingHosts) > 0 && !d.LocalTo(w.x.cfg.Hostnames...) {
		return w.elsewhere(r, d, name)
	}
	return w.local(r, d, name)
}

// reporter notes who is the author of notifications about r: the one of the
// domain that the sender wrote to, wherever it leads (directory.md 3).
func (w *walk) reporter(r *mail.Recipient, d *directory.Domain) {
	if d.ReportAddress == "" || len(r.Via) > 0 {
		return
	}
	a, err := mail.ParseAddress(strings.TrimPrefix(d.ReportAddress, "mailto:"), true)
	if err != nil {
		w.x.alarms.raise("mailDomainReportAddress is not well formed: "+d.ReportAddress, d.DN, r.Address, err)
		return
	}
	w.rule(r.Address, d.DN, "3", "mailDomainReportAddress", "notifications about it are from "+a.String(), nil)
	r.Reports = a
}

// elsewhere passes on mail for a domain that other relays expand (directory.md
// 2.3). It is ours to accept all the same.
func (w *walk) elsewhere(r mail.Recipient, d *directory.Domain, name string) error {
	w.rule(r.Address, d.DN, "2.3", "mailRoutingHosts", "domain is kept by other hosts", nil)
	r.Channel, r.NextHop = mail.ChannelSMTP, name
	if w.x.cfg.RouteToRoutingHost {
		r.NextHop = strings.ToLower(strings.TrimSpace(d.RoutingHosts[0]))
	}
	return w.takenOn(r)
}

// takenOn adds r, which leaves for another host although it is one of our
// addresses: Via says that we took it on.
func (w *walk) takenOn(r mail.Recipient) error {
	if len(r.Via) == 0 {
		r.Via = []string{r.Address.String()}
	}
	return w.result(r)
}

// local expands an address of domain d, found under name.
func (w *walk) local(r mail.Recipient, d *directory.Domain, name string) error {
	a := mail.Address{Local: r.Address.Local, Domain: name}
	groups := w.beside(a)
	ans, err := w.x.cfg.Directory.Lookup(w.ctx, d, a)
	w.besides(groups)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		return w.nobodyHas(r, d)
	case err != nil:
		return w.unknown(r.Address, err)
	}
	if ans.CatchAll {
		if taken, err := w.ownerOrRequest(r, d); taken || err != nil {
			return err
		}
		w.rule(r.Address, d.DN, "4.6", "mailAlternateAddress", "nobody has the address, the owner of @"+name+" gets it", nil)
	}
	e, err := w.only(r, ans.Entries)
	if err != nil {
		return err
	}
	r.Folder = ""
	if !ans.CatchAll {
		r.Folder = ans.DetailOf(a)
	}
	was := w.caught
	w.caught = ans.CatchAll
	err = w.entry(r, d, e)
	w.caught = was
	return err
}

// nobodyHas answers for an address of d without an entry: the list's owner, the
// domain's catch-all, its smart host, or nobody (directory.md 4.6).
func (w *walk) nobodyHas(r mail.Recipient, d *directory.Domain) error {
	if s, _ := directory.Effective(d, nil); s != directory.Active {
		w.rule(r.Address, d.DN, "6", "", "nobody in this domain, which is "+s.String(), nil)
		return w.status(r, s, "domain")
	}
	if taken, err := w.ownerOrRequest(r, d); taken || err != nil {
		return err
	}
	if d.CatchAll != "" || d.SmartHost != "" {
		if err := w.fits(&r, d.MaxBlocks, d.DN, "mailDomainMsgMaxBlocks"); err != nil {
			return err
		}
	}
	if d.CatchAll != "" {
		to, err := mail.ParseAddress(strings.TrimPrefix(strings.TrimSpace(d.CatchAll), "mailto:"), true)
		if err != nil {
			return w.misconfigured(r.Address, d.DN, "catch-all address is not well formed: "+d.CatchAll, err)
		}
		w.rule(r.Address, d.DN, "4.6", "mailDomainCatchallAddress", "nobody has the address, "+to.String()+" gets it", nil)
		return w.redirect(r, d.DN, to)
	}
	if d.SmartHost != "" {
		w.rule(r.Address, d.DN, "4.6", "mailRoutingSmartHost", "nobody has the address, the smart host may know", nil)
		r.Channel, r.NextHop = mail.ChannelSMTP, strings.ToLower(d.SmartHost)
		return w.takenOn(r)
	}
	w.rule(r.Address, d.DN, "4", "", "nobody in this domain", nil)
	return w.answer(ansUnknownUser, r.Address, nil)
}

// redirect goes on with another address in the place of r's.
func (w *walk) redirect(r mail.Recipient, dn string, to mail.Address) error {
	via, err := w.enter(r, &directory.Entry{DN: dn})
	if err != nil {
		return err
	}
	defer w.leave()
	return w.step(r, to, via, nil, nil)
}

// only is the entry that remains of those with the address (directory.md 4.8).
func (w *walk) only(r mail.Recipient, entries []*directory.Entry) (*directory.Entry, error) {
	if len(entries) == 1 {
		return entries[0], nil
	}
	e, err := directory.Sole(entries)
	switch {
	case errors.Is(err, directory.ErrAmbiguous):
		w.x.alarms.raise("address belongs to more than one entry", err.Error(), r.Address, nil)
		w.rule(r.Address, "", "4.8", "", "more than one entry has the address", nil)
		return nil, w.answer(ansAmbiguous, r.Address, err)
	case err != nil:
		w.rule(r.Address, "", "4.8", "", "all entries with the address are deleted or without uid", nil)
		return nil, w.answer(ansUnknownUser, r.Address, nil)
	}
	w.rule(r.Address, e.DN, "4.8", "", "the one of several entries that counts", nil)
	return e, nil
}

// ownerOrRequest takes LIST-request, LIST-owner and owner-LIST of a list that
// names who is meant (directory.md 13.2, rows 15 and 16).
func (w *walk) ownerOrRequest(r mail.Recipient, d *directory.Domain) (taken bool, err error) {
	local := strings.ToLower(r.Address.Local)
	request, base := false, ""
	if b, ok := strings.CutSuffix(local, "-request"); ok {
		request, base = true, b
	} else if b, ok := strings.CutSuffix(local, "-owner"); ok {
		base = b
	} else if b, ok := strings.CutPrefix(local, "owner-"); ok {
		base = b
	}
	if base == "" {
		return false, nil
	}
	ans, err := w.x.cfg.Directory.Lookup(w.ctx, d, mail.Address{Local: base, Domain: r.Address.Domain})
	switch {
	case errors.Is(err, directory.ErrNotFound):
		return false, nil
	case err != nil:
		return false, w.unknown(r.Address, err)
	case ans.CatchAll || len(ans.Entries) != 1 || ans.Entries[0].Kind != directory.Group:
		return false, nil
	}
	e := ans.Entries[0]
	if s, _ := directory.Effective(d, e); s != directory.Active {
		return false, nil
	}
	value, attribute := e.ErrorsTo, "mgrpErrorsTo"
	if request {
		value, attribute = "", "mgrpRequestTo"
		if e.List != nil {
			value = e.List.RequestTo
		}
	}
	if value == "" {
		return false, nil
	}
	to, err := w.one(r, e, value)
	if err != nil {
		return false, err
	}
	w.rule(r.Address, e.DN, "13.2", attribute, "for the people behind the list: "+to.String(), nil)
	return true, w.redirect(r, e.DN, to)
}

package expand

import (
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// entry expands the entry e of domain d that r.Address belongs to, by the
// stages of directory.md 5.
func (w *walk) entry(r mail.Recipient, d *directory.Domain, e *directory.Entry) error {
	status, level := directory.Effective(d, e)
	if w.trace != nil {
		w.rule(r.Address, e.DN, "5/2", statusAttribute(level, e), e.Kind.String()+", status "+status.String(), nil)
	}
	switch {
	case status == directory.OverQuota && e.Kind == directory.User && w.env != nil && w.env.Guaranteed:
		w.rule(r.Address, e.DN, "14", "mailSMTPSubmitChannel", "over quota, and stored all the same: the sender's channel is guaranteed", nil)
	case status != directory.Active:
		return w.status(r, status, e.Kind.String())
	}
	if e.Kind == directory.User && e.UID == "" {
		return w.misconfigured(r.Address, e.DN, "user has no usable uid", nil)
	}
	r.OptIn = e.OptIn
	if len(e.OptIn) > 0 {
		w.rule(r.Address, e.DN, "5/12", "mailAntiUBEService", "filters asked for: "+strings.Join(e.OptIn, ", "), nil)
	}
	if len(e.Capture) > 0 {
		if err := w.capture(r, e.DN, e.Capture); err != nil {
			return err
		}
	}
	if done, err := w.route(r, d, e); done || err != nil {
		return err
	}
	if err := w.limits(&r, d, e); err != nil {
		return err
	}
	set := w.active(r, e)
	plain := set == 1 && w.x.options[0].does == doMailbox // almost everybody
	if plain && e.Defer != "yes" && w.top() && !w.now() {
		return w.mailbox(r, d, e, "")
	}
	if e.Defer == "yes" && !(w.now() && w.top()) {
		return w.putOff(r, e, "5/14", "mailDeferProcessing", "the entry says so")
	}
	// In the channel reprocess two mailboxes of one name are one anyway, and the
	// members of a long list need not be remembered.
	if !(plain && w.now()) && (r.Folder == "" || set != 1) && !(w.apart && e.Kind == directory.User) && w.again(e.DN) {
		w.rule(r.Address, e.DN, "13.4", "", "left out: reached already", nil)
		return nil
	}
	return w.produce(r, d, e, set)
}

func statusAttribute(l directory.Level, e *directory.Entry) string {
	switch l {
	case directory.LevelDomainMail:
		return "mailDomainStatus"
	case directory.LevelEntry:
		if e.Kind == directory.Group {
			return "groupGeneralStatus" // a purpose: the name is the site's
		}
		return "inetUserStatus"
	case directory.LevelEntryMail:
		if e.Kind == directory.Group {
			return "inetMailGroupStatus"
		}
		return "mailUserStatus"
	}
	return "inetDomainStatus"
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

// route is stage 6: who has the entry's mail when it is not one of our pairs
// (directory.md 7). done says that nothing else follows.
func (w *walk) route(r mail.Recipient, d *directory.Domain, e *directory.Entry) (done bool, err error) {
	if e.Kind == directory.Group {
		return w.groupHost(r, e)
	}
	if e.MailHost != "" {
		if _, ok := w.x.cfg.Pair(e.MailHost); ok {
			return false, nil
		}
	}
	if e.RoutingAddress != "" {
		return true, w.routed(r, e)
	}
	if e.MailHost != "" && w.bound(r, e) {
		w.rule(r.Address, e.DN, "7", "mailHost", "another host has the user", nil)
		r.Channel, r.NextHop = mail.ChannelSMTP, e.MailHost
		return true, w.takenOn(r)
	}
	if e.MailHost != "" || !w.needsHost(r, e) {
		return false, nil // a fault of the option mailbox, if that is active
	}
	if d != nil && d.SmartHost != "" {
		w.rule(r.Address, e.DN, "7", "mailRoutingSmartHost", "user without mailHost goes to the smart host", nil)
		r.Channel, r.NextHop = mail.ChannelSMTP, strings.ToLower(d.SmartHost)
		return true, w.takenOn(r)
	}
	return false, nil
}

// groupHost passes a group on to where its mail is to go, unless that is here,
// or to the host that expands it, unless all its options can be carried out
// anywhere. The host of a group may be this relay or one of our pairs.
func (w *walk) groupHost(r mail.Recipient, e *directory.Entry) (done bool, err error) {
	if e.MailHost != "" {
		if _, ok := w.x.cfg.Pair(e.MailHost); ok {
			return false, nil
		}
		for _, h := range w.x.cfg.Hostnames {
			if strings.EqualFold(h, e.MailHost) {
				return false, nil
			}
		}
	}
	if e.RoutingAddress != "" {
		return true, w.routed(r, e)
	}
	if e.MailHost == "" || !w.bound(r, e) {
		return false, nil
	}
	w.rule(r.Address, e.DN, "7", "mailHost", "another host expands the group", nil)
	r.Channel, r.NextHop = mail.ChannelSMTP, e.MailHost
	return true, w.takenOn(r)
}

// routed goes on with the entry's mailRoutingAddress.
func (w *walk) routed(r mail.Recipient, e *directory.Entry) error {
	to, err := mail.ParseAddress(strings.TrimSpace(e.RoutingAddress), true)
	if err != nil {
		return w.misconfigured(r.Address, e.DN, "mailRoutingAddress is not well formed: "+e.RoutingAddress, err)
	}
	w.rule(r.Address, e.DN, "7", "mailRoutingAddress", "the mail goes to "+to.String(), nil)
	return w.redirect(r, e.DN, to)
}

// limits is stage 7: sizes, and what the pair is told about the quota
// (directory.md 5, 11). What comes of the entry is bound by its size, and by
// those of the entries on the way.
func (w *walk) limits(r *mail.Recipient, d *directory.Domain, e *directory.Entry) error {
	blocks, attribute := e.MaxBlocks, "mailMsgMaxBlocks"
	if blocks == 0 && d != nil {
		blocks, attribute = d.MaxBlocks, "mailDomainMsgMaxBlocks"
	}
	if err := w.fits(r, blocks, e.DN, attribute); err != nil {
		return err
	}
	if e.Kind == directory.Group {
		return nil
	}
	if d != nil && d.NoMail {
		w.rule(r.Address, e.DN, "3", "mailDomainDiskQuota", "the domain's quota allows no mail", nil)
		return w.overQuota(*r)
	}
	if q := e.Quota; q != nil && (q.Bytes == 0 || q.Messages == 0) {
		w.rule(r.Address, e.DN, "11", "mailQuota", "the quota allows no mail", nil)
		return w.overQuota(*r)
	}
	return nil
}

// fits bounds what r takes by that many blocks of 1,024 octets, 0 without limit.
func (w *walk) fits(r *mail.Recipient, blocks int64, dn, attribute string) error {
	if blocks <= 0 || blocks >= 1<<40 {
		return nil
	}
	limit := blocks * 1024
	if w.size() > limit {
		w.rule(r.Address, dn, "5/7", attribute, "the message is too big", nil)
		return w.answer(ansTooBig, r.Address, nil)
	}
	if r.MaxSize == 0 || limit < r.MaxSize {
		r.MaxSize = limit
	}
	return nil
}

// mailbox delivers to the user's pair, or to the pair that host names.
func (w *walk) mailbox(r mail.Recipient, d *directory.Domain, e *directory.Entry, host string) error {
	if host == "" {
		host = e.MailHost
	}
	pair, ok := w.x.cfg.Pair(host)
	if !ok {
		return w.misconfigured(r.Address, e.DN, "mailHost of user names no pair: "+host, nil)
	}
	r.Channel, r.NextHop, r.Mailbox, r.Quota, r.Store = mail.ChannelLMTP, pair, e.Mailbox, w.x.quota(e), e.MessageStore
	if r.Store != "" {
		w.rule(r.Address, e.DN, "14", "mailMessageStore", "a new mailbox is made in partition "+r.Store, nil)
	}
	if r.Mailbox == "" { // not found by address: the entry does not know its domain
		r.Mailbox = d.MailboxOf(e.UID)
	}
	if err := w.folder(&r, e); err != nil {
		return err
	}
	if d != nil && d.Welcome != "" {
		w.rule(r.Address, e.DN, "3", "mailDomainWelcomeMessage", "a new mailbox is welcomed", nil)
		r.Welcome = d.Welcome
	}
	return w.add(r)
}

// quota is what the pair is told of the quota of the user e: the entry's, else
// the system's.
func (x *Expander) quota(e *directory.Entry) *mail.Quota {
	bytes, messages := x.cfg.Quota, x.cfg.MessageQuota
	if bytes == 0 && messages == 0 {
		return e.Quota
	}
	q := mail.Quota{Bytes: directory.QuotaDefault, Messages: directory.QuotaDefault, Stamp: e.Stamp}
	if e.Quota != nil {
		q = *e.Quota
	}
	if q.Bytes == directory.QuotaDefault && bytes > 0 {
		q.Bytes = bytes
	}
	if q.Messages == directory.QuotaDefault && messages > 0 {
		q.Messages = messages
	}
	return &q
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
		w.rule(to, e.DN, "9", "mailForwardingAddress", "forwarded", nil)
		if err := w.step(r, to, via, nil, nil); err != nil {
			return err
		}
	}
	if tried == 0 && alone {
		return w.misconfigured(r.Address, e.DN, "user forwards to nobody", nil)
	}
	return nil
}

// capture is stage 4: the addresses that get a copy of everything, whatever
// becomes of the message: ADDRESS or ADDRESS:journal as it is, ADDRESS:dsn
// inside a message about it.
func (w *walk) capture(r mail.Recipient, dn string, values []string) error {
	for _, v := range values {
		v = strings.TrimSpace(v)
		wrapped := false
		if i := strings.LastIndexByte(v, ':'); i >= 0 {
			wrapped = strings.EqualFold(v[i+1:], "dsn")
			if wrapped || strings.EqualFold(v[i+1:], "journal") {
				v = v[:i]
			}
		}
		to, err := mail.ParseAddress(v, true)
		if err != nil {
			w.x.alarms.raise("capture address is not well formed: "+v, dn, r.Address, err)
			continue
		}
		if w.copies[to.Key()] {
			continue
		}
		if w.copies == nil {
			w.copies = map[string]bool{}
		}
		w.copies[to.Key()] = true
		w.rule(r.Address, dn, "5/4", "", "a copy goes to "+to.String(), nil)
		c := mail.Recipient{Address: to, Notify: mail.NotifyNever, Via: append(r.Via[:len(r.Via):len(r.Via)], r.Address.String())}
		if wrapped {
			err = w.add(w.later(c, resume{stage: stageCopy}))
		} else {
			err = w.copyTo(r, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyTo adds a copy as it is. Whatever is wrong with the address that gets it
// is no reason to refuse the mail.
func (w *walk) copyTo(r, c mail.Recipient) error {
	via, err := w.enter(r, &directory.Entry{})
	if err != nil {
		return nil
	}
	defer w.leave()
	_ = via // c has it
	return w.step(c, c.Address, c.Via, nil, nil)
}

package expand

import (
	"context"
	"errors"
	"iter"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// member is one member of a group: an address and, when a name or a search led
// to it, its entry.
type member struct {
	address mail.Address
	entry   *directory.Entry
}

// group is stage 15 of the group e: who may post, what the list changes, and
// its members. It is put off when that needs the message, when there are too
// many members, or when offline says so.
func (w *walk) group(r mail.Recipient, d *directory.Domain, e *directory.Entry, offline bool) error {
	r.ListName, r.Autoreply, r.Folder = e.Mail, nil, ""
	stage := stageNone
	if w.now() && w.top() {
		stage = w.pass.state.stage
	}
	switch {
	case stage == stageModerate:
		return w.moderators(r, e)
	case stage == stageNone && e.List != nil && e.List.Restricted() && !w.continued():
		v, err := w.mayPost(r, e)
		switch {
		case err != nil:
			return err
		case v == postLater:
			return w.putOff(r, e, "13.2", "", "the list's rules need the message")
		case v == postModerate && !(w.now() && w.top()):
			return w.putOff(r, e, "13.2/10", "mgrpModerator", "for the moderators")
		case v == postModerate:
			w.rule(r.Address, e.DN, "13.2/10", "mgrpModerator", "a copy for the moderators", nil)
			return w.change(r, e, stageModerate)
		}
	}
	switch {
	case changes(e) && stage == stageNone && w.now() && w.top():
		w.rule(r.Address, e.DN, "13.2/17", "mgrpAddHeader", "a copy with the list's changes", nil)
		return w.change(r, e, stageChanged)
	case changes(e) && stage == stageNone:
		attribute := ""
		if e.ErrorsTo != "" {
			attribute = "mgrpErrorsTo"
		}
		return w.putOff(r, e, "13.2/17", attribute, "the list changes its mail")
	case offline && !w.now():
		return w.putOff(r, e, "8.2", "mailDeliveryOption", "the option says so")
	case e.Defer == "after_auth" && !w.now():
		return w.putOff(r, e, "5/14", "mailDeferProcessing", "the entry says so")
	}
	return w.expand(r, e)
}

// continued reports whether earlier pieces of the list in hand are on their way:
// whoever posted was allowed to.
func (w *walk) continued() bool { return w.now() && w.top() && w.pass.state.after != "" }

// changes reports whether mail of the list is not the mail that was sent to it.
func changes(e *directory.Entry) bool {
	return e.ErrorsTo != "" || e.List != nil && e.List.Changes()
}

// expand goes on with the members of e.
func (w *walk) expand(r mail.Recipient, e *directory.Entry) error {
	var members []member
	if !w.now() {
		// Lists in a list share the limit: what does not fit goes on by itself.
		limit := max(w.x.cfg.ListLimit-len(w.final), 0)
		err := w.members(r, e, limit, func(m member) error {
			if len(members) >= limit {
				return directory.ErrTooMany
			}
			if members == nil {
				members = make([]member, 0, len(e.MemberAddresses)+len(e.MemberDNs))
			}
			members = append(members, m)
			return nil
		})
		switch {
		case errors.Is(err, directory.ErrTooMany):
			return w.putOff(r, e, "13.6", "", "too many members for the client to wait")
		case err != nil:
			return err
		}
	}
	via, err := w.enter(r, e)
	if err != nil {
		return err
	}
	defer w.leave()
	was := w.apart
	w.apart = e.List != nil && e.List.NoDuplicateChecks
	defer func() { w.apart = was }()
	if !w.now() {
		w.grow(len(members))
		for _, m := range members {
			if err := w.member(r, m, via); err != nil {
				return err
			}
		}
		return nil
	}
	err = w.members(r, e, maxSteps, func(m member) error { return w.member(r, m, via) })
	if errors.Is(err, directory.ErrTooMany) {
		return w.tooLarge(r, err)
	}
	return err
}

// member goes on with one member of the list r.
func (w *walk) member(r mail.Recipient, m member, via []string) error {
	d, err := w.home(m)
	if err != nil {
		return err
	}
	if d == nil {
		m.entry = nil
	}
	return w.step(r, m.address, via, d, m.entry)
}

// home is the domain of a member whose entry is known, so that it need not be
// looked up again; nil when its address says that it is elsewhere.
func (w *walk) home(m member) (*directory.Domain, error) {
	if m.entry == nil || m.entry.Kind == directory.Other {
		return nil, nil
	}
	name, err := directory.NormalizeDomain(m.address.Domain)
	if err != nil {
		return nil, nil
	}
	d, err := w.x.cfg.Directory.Domain(w.ctx, name)
	switch {
	case err == nil:
		if len(d.RoutingHosts) > 0 && !d.LocalTo(w.x.cfg.Hostnames...) {
			return nil, nil
		}
		return d, nil
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return nil, nil
	}
	return nil, w.unknown(m.address, err)
}

// batch is how many names are resolved before the members that they lead to are
// gone through.
const batch = 256

// members calls take with each member of e; it ends with take's error, and with
// ErrTooMany when a search or the entry itself has more than limit. An error of
// the directory is the answer for all of them.
func (w *walk) members(r mail.Recipient, e *directory.Entry, limit int, take func(member) error) error {
	if len(e.MemberAddresses)+len(e.MemberDNs) > limit {
		return directory.ErrTooMany
	}
	add := func(text string, m *directory.Entry) error {
		a, err := memberAddress(text)
		if err != nil {
			w.x.alarms.raise("member address is not well formed: "+text, e.DN, r.Address, err)
			return nil
		}
		return take(member{a, m})
	}
	// Groups that a search finds wait until it is over: they may need another one.
	var groups []string
	plain := func(m *directory.Entry) error {
		switch {
		case m.Mail == "": // members without an address are skipped (directory.md 13.3)
			return nil
		case m.Kind == directory.Group:
			groups = append(groups, m.DN)
			return nil
		}
		return add(m.Mail, m)
	}
	below := func(u string, own bool) error {
		found := plain
		if own && e.List != nil && e.List.ResultMapping != "" {
			found = func(m *directory.Entry) error { return w.mapped(r, e, u, m, plain, add) }
		}
		return w.search(r, e, u, min(limit, MaxFinal), found)
	}
	// The order of the specification's rows 11-14.
	for _, u := range e.MemberURLs {
		if err := below(u, true); err != nil {
			return err
		}
	}
	named := func(dns []string) error {
		return w.named(r, dns, func(m *directory.Entry) error {
			switch {
			case m.Mail != "":
				return add(m.Mail, m)
			case m.Kind == directory.Other:
				// A name may stand for all that is below it (directory.md 13.2, row 13).
				return below("ldap:///"+url.PathEscape(m.DN)+"??sub?(mail=*)", false)
			}
			return nil
		})
	}
	if err := named(e.MemberDNs); err != nil {
		return err
	}
	if err := named(groups); err != nil {
		return err
	}
	for _, text := range e.MemberAddresses {
		if err := add(text, nil); err != nil {
			return err
		}
	}
	return nil
}

// memberAddress reads an address that may be written as a mailto: URL.
func memberAddress(text string) (mail.Address, error) {
	text = strings.TrimSpace(text)
	if len(text) > 7 && strings.EqualFold(text[:7], "mailto:") {
		text, _, _ = strings.Cut(text[7:], "?")
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
	}
	return mail.ParseAddress(text, true)
}

// named calls take with the entries of that many names.
func (w *walk) named(r mail.Recipient, dns []string, take func(*directory.Entry) error) error {
	for len(dns) > 0 {
		some := dns[:min(batch, len(dns))]
		dns = dns[len(some):]
		entries, err := w.entries(r, some)
		if err != nil {
			return err
		}
		for i, m := range entries {
			if m == nil {
				w.rule(r.Address, some[i], "13.3", "uniqueMember", "left out: no such entry", nil)
				continue
			}
			if err := take(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// search calls take with each entry that u selects, and ends with take's error.
// ErrTooMany when there are more than limit.
func (w *walk) search(r mail.Recipient, e *directory.Entry, u string, limit int, take func(*directory.Entry) error) error {
	next, stop := w.entriesOf(u, max(limit, 1))
	defer stop()
	for {
		m, err, ok := next()
		switch {
		case !ok:
			return nil
		case errors.Is(err, directory.ErrTooMany):
			return directory.ErrTooMany
		case errors.Is(err, directory.ErrURL):
			return w.misconfigured(r.Address, e.DN, "member URL cannot be used: "+u, err)
		case errors.Is(err, directory.ErrNotFound):
			w.x.alarms.raise("member URL leads to a name that does not exist: "+u, e.DN, r.Address, err)
			return nil
		case err != nil:
			return w.unknown(r.Address, err)
		}
		if err := take(m); err != nil {
			return err
		}
	}
}

// entriesOf begins a search. It is pulled, because the body of a loop over it
// would move w to the heap, for everybody.
func (w *walk) entriesOf(u string, limit int) (next func() (*directory.Entry, error, bool), stop func()) {
	return iter.Pull2(w.x.cfg.Directory.Search(w.ctx, u, limit))
}

// readers is how many entries are asked for at once.
const readers = 8

// entries reads the entries of that many names, nil for those that do not
// exist or lie outside of the directory.
func (w *walk) entries(r mail.Recipient, dns []string) ([]*directory.Entry, error) {
	if len(dns) == 0 {
		return nil, nil
	}
	out := make([]*directory.Entry, len(dns))
	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	var next atomic.Int64
	d := w.x.cfg.Directory // not w: it would move to the heap, for everybody
	read := func() {
		for ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(dns) {
				return
			}
			m, err := d.Entry(ctx, dns[i])
			switch {
			case err == nil:
				out[i] = m
			case !errors.Is(err, directory.ErrNotFound) && !errors.Is(err, directory.ErrURL):
				cancel(err)
			}
		}
	}
	var wg sync.WaitGroup
	for range min(readers, len(dns)/readers) {
		wg.Go(read)
	}
	read()
	wg.Wait()
	if ctx.Err() != nil {
		return nil, w.unknown(r.Address, context.Cause(ctx))
	}
	return out, nil
}

// moderators goes on with the moderators of e as its only members
// (directory.md 13.2, row 10).
func (w *walk) moderators(r mail.Recipient, e *directory.Entry) error {
	only := &directory.Entry{DN: e.DN, Kind: directory.Group, Mail: e.Mail}
	for _, v := range e.List.Moderators {
		v = strings.TrimSpace(v)
		switch u, err := directory.ParseURL(v); {
		case err != nil:
			only.MemberAddresses = append(only.MemberAddresses, v)
		case u.Scope == directory.ScopeBase:
			only.MemberDNs = append(only.MemberDNs, u.DN)
		default:
			only.MemberURLs = append(only.MemberURLs, v)
		}
	}
	return w.expand(r, only)
}

// one is the single address that a value names: an address, a mailto: URL or
// an LDAP URL that leads to one entry.
func (w *walk) one(r mail.Recipient, e *directory.Entry, value string) (mail.Address, error) {
	value = strings.TrimSpace(value)
	if _, err := directory.ParseURL(value); err == nil {
		found := ""
		err := w.search(r, e, value, 1, func(m *directory.Entry) error { found = m.Mail; return nil })
		switch {
		case errors.Is(err, directory.ErrTooMany):
			found = ""
		case err != nil:
			return mail.Address{}, err
		}
		value = found
	}
	a, err := memberAddress(value)
	if err != nil {
		return a, w.misconfigured(r.Address, e.DN, "not the address of one person: "+value, err)
	}
	return a, nil
}

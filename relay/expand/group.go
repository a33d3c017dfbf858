package expand

import (
	"context"
	"errors"
	"net/url"
	"slices"
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

// group expands the members of e, or puts them off: when there are too many,
// or when offline says so.
func (w *walk) group(r mail.Recipient, e *directory.Entry, offline bool) error {
	if len(e.PostingRules) > 0 {
		return w.misconfigured(r.Address, e.DN, "group has posting rules, which are not evaluated yet: "+e.PostingRules[0], nil)
	}
	r.ListName = e.Mail
	if offline && !w.now {
		return w.putOff(r, e)
	}
	members, err := w.members(r, e)
	switch {
	case errors.Is(err, directory.ErrTooMany) && !w.now:
		return w.putOff(r, e)
	case errors.Is(err, directory.ErrTooMany):
		return w.tooLarge(r, err)
	case err != nil:
		return err
	}
	via, err := w.enter(r, e)
	if err != nil {
		return err
	}
	defer w.leave()
	w.final = slices.Grow(w.final, len(members))
	for _, m := range members {
		d, err := w.home(m)
		if err != nil {
			return err
		}
		known := m.entry
		if d == nil {
			known = nil
		}
		if err := w.step(r, m.address, via, d, known); err != nil {
			return err
		}
	}
	return nil
}

// putOff sends the group through the channel reprocess.
func (w *walk) putOff(r mail.Recipient, e *directory.Entry) error {
	w.note(r.Address, e.DN, "put off to the channel reprocess", nil)
	r.Channel, r.NextHop = mail.ChannelReprocess, ""
	return w.add(r)
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
		return d, nil
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return nil, nil
	}
	return nil, w.unknown(m.address, err)
}

// members are the members of e; ErrTooMany when there are more than may be
// expanded now. An error of the directory is the answer for all of them.
func (w *walk) members(r mail.Recipient, e *directory.Entry) ([]member, error) {
	limit := w.x.cfg.ListLimit
	if w.now {
		limit = MaxFinal
	}
	if len(e.MemberAddresses)+len(e.MemberDNs) > limit {
		return nil, directory.ErrTooMany
	}
	members := make([]member, 0, len(e.MemberAddresses)+len(e.MemberDNs))
	add := func(text string, m *directory.Entry) {
		text = strings.TrimSpace(text)
		if len(text) > 7 && strings.EqualFold(text[:7], "mailto:") {
			text = text[7:]
		}
		a, err := mail.ParseAddress(text, true)
		if err != nil {
			w.x.alarms.raise("member address is not well formed: "+text, e.DN, r.Address, err)
			return
		}
		members = append(members, member{a, m})
	}
	// The order of the specification's rows 11-14.
	for _, u := range e.MemberURLs {
		found, err := w.search(r, e, u, limit-len(members))
		if err != nil {
			return nil, err
		}
		for _, m := range found {
			if m.Mail != "" { // members without an address are skipped (directory.md 13.3)
				add(m.Mail, m)
			}
		}
	}
	entries, err := w.entries(r, e.MemberDNs)
	if err != nil {
		return nil, err
	}
	for i, m := range entries {
		switch {
		case m == nil:
			w.note(r.Address, e.MemberDNs[i], "left out: no such entry", nil)
		case m.Mail != "":
			add(m.Mail, m)
		case m.Kind == directory.Other:
			// A name may stand for all that is below it (directory.md 13.2, row 13).
			found, err := w.search(r, e, "ldap:///"+url.PathEscape(m.DN)+"??sub?(mail=*)", limit-len(members))
			if err != nil {
				return nil, err
			}
			for _, below := range found {
				add(below.Mail, below)
			}
		}
	}
	for _, text := range e.MemberAddresses {
		add(text, nil)
	}
	if len(members) > limit {
		return nil, directory.ErrTooMany
	}
	return members, nil
}

func (w *walk) search(r mail.Recipient, e *directory.Entry, u string, limit int) ([]*directory.Entry, error) {
	found, err := w.x.cfg.Directory.Search(w.ctx, u, max(limit, 1))
	switch {
	case errors.Is(err, directory.ErrTooMany):
		return nil, directory.ErrTooMany
	case errors.Is(err, directory.ErrURL):
		return nil, w.misconfigured(r.Address, e.DN, "member URL cannot be used: "+u, err)
	case errors.Is(err, directory.ErrNotFound):
		w.x.alarms.raise("member URL leads to a name that does not exist: "+u, e.DN, r.Address, err)
		return nil, nil
	case err != nil:
		return nil, w.unknown(r.Address, err)
	}
	return found, nil
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

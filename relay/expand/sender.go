package expand

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// sender is who posts to a list.
type sender struct {
	address mail.Address     // null for nobody
	entry   *directory.Entry // of our directory, nil for strangers
}

// is reports whether text is an address of s.
func (s *sender) is(text string) bool {
	a, err := memberAddress(text)
	if err != nil || s.address.IsNull() {
		return false
	}
	return a.Key() == s.address.Key() || s.entry != nil && s.entry.Owns(a.String())
}

// sender is who posts: by the envelope, or who has logged in when byLogin is
// set and somebody has.
func (w *walk) sender(r mail.Recipient, byLogin bool) (*sender, error) {
	which := 0
	if byLogin && w.env != nil && w.env.AuthUser != "" {
		which = 1
	}
	if s := w.seenBy[which]; s != nil {
		return s, nil
	}
	s := &sender{}
	var err error
	if which == 1 {
		s.entry, err = w.x.cfg.Directory.Login(w.ctx, w.env.AuthUser)
		if err == nil {
			s.address, _ = mail.ParseAddress(s.entry.Mail, true)
		} else {
			s.address, _ = mail.ParseAddress(w.env.AuthUser, true)
		}
	} else {
		s.address = w.author()
		s.entry, err = w.lookup(s.address)
	}
	if err != nil && !errors.Is(err, directory.ErrNotFound) && !errors.Is(err, directory.ErrAmbiguous) {
		return nil, w.unknown(r.Address, err)
	}
	w.seenBy[which] = s
	return s, nil
}

// author is who posts by the envelope. A copy that a list made has another
// reverse-path and remembers.
func (w *walk) author() mail.Address {
	switch {
	case w.pass != nil && w.pass.state.poster != nil:
		return *w.pass.state.poster
	case w.env != nil:
		return w.env.ReversePath
	}
	return mail.Address{}
}

// lookup is the one entry that has an address. ErrNotFound when there is none,
// or it is not ours.
func (w *walk) lookup(a mail.Address) (*directory.Entry, error) {
	if a.IsNull() {
		return nil, directory.ErrNotFound
	}
	name, err := directory.NormalizeDomain(a.Domain)
	if err != nil {
		return nil, directory.ErrNotFound
	}
	d, err := w.x.cfg.Directory.Domain(w.ctx, name)
	if err != nil {
		return nil, err
	}
	ans, err := w.x.cfg.Directory.Lookup(w.ctx, d, mail.Address{Local: a.Local, Domain: name})
	if err != nil {
		return nil, err
	}
	if ans.CatchAll {
		return nil, directory.ErrNotFound
	}
	return directory.Sole(ans.Entries)
}

// errBadURL says that a value is no URL that can lead to people.
var errBadURL = errors.New("not a usable URL")

// errLater says that more entries would have to be read than a client waits for.
var errLater = errors.New("to be found out later")

// among reports whether s is among the people that the values stand for
// (directory.md 13.2, rows 6, 7 and 10). errBadURL when a value cannot be read.
func (w *walk) among(r mail.Recipient, e *directory.Entry, values []string, s *sender) (bool, error) {
	for _, v := range values {
		v = strings.TrimSpace(v)
		u, urlErr := directory.ParseURL(v)
		_, addrErr := memberAddress(v)
		var in bool
		var err error
		switch {
		case urlErr == nil && u.Scope == directory.ScopeBase:
			in, err = w.single(r, u.DN, s)
		case urlErr == nil:
			in, err = w.found(r, v, s, map[string]bool{})
		case addrErr == nil:
			in, err = w.addressed(r, v, s)
		default:
			err = errBadURL
		}
		if errors.Is(err, directory.ErrURL) {
			err = errBadURL
		}
		if in || err != nil {
			return in, err
		}
	}
	return false, nil
}

// single: the entry of that name is the sender's, or a group with the sender.
func (w *walk) single(r mail.Recipient, dn string, s *sender) (bool, error) {
	e, err := w.x.cfg.Directory.Entry(w.ctx, dn)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		return false, nil
	case errors.Is(err, directory.ErrURL):
		return false, err
	case err != nil:
		return false, w.unknown(r.Address, err)
	}
	return w.covers(r, e, s, nil)
}

// found: one of the entries that a search finds is the sender's, or a group
// with the sender. Groups are looked into when the search is over, so that it
// does not wait for another.
func (w *walk) found(r mail.Recipient, u string, s *sender, visited map[string]bool) (bool, error) {
	limit := MaxFinal
	if !w.now() {
		limit = w.x.cfg.ListLimit
	}
	var groups []string
	next, stop := w.entriesOf(u, limit)
	defer stop()
	for {
		e, err, ok := next()
		switch {
		case !ok:
			return w.oneOf(r, groups, s, visited)
		case errors.Is(err, directory.ErrNotFound):
			return false, nil
		case errors.Is(err, directory.ErrTooMany) && !w.now():
			return false, errLater
		case errors.Is(err, directory.ErrURL):
			return false, err
		case err != nil:
			return false, w.unknown(r.Address, err)
		case e.Kind == directory.Group:
			groups = append(groups, e.DN)
			continue
		}
		if in, err := w.covers(r, e, s, nil); in || err != nil {
			return in, err
		}
	}
}

// oneOf looks into the groups of those names.
func (w *walk) oneOf(r mail.Recipient, dns []string, s *sender, visited map[string]bool) (bool, error) {
	for len(dns) > 0 {
		some := dns[:min(batch, len(dns))]
		dns = dns[len(some):]
		entries, err := w.entries(r, some)
		if err != nil {
			return false, err
		}
		for _, m := range entries {
			if m == nil || m.Kind == directory.Other {
				continue
			}
			if in, err := w.covers(r, m, s, visited); in || err != nil {
				return in, err
			}
		}
	}
	return false, nil
}

// addressed: the address is the sender's, or that of a group with the sender.
func (w *walk) addressed(r mail.Recipient, text string, s *sender) (bool, error) {
	if s.is(text) {
		return true, nil
	}
	a, err := memberAddress(text)
	if err != nil {
		return false, nil
	}
	e, err := w.lookup(a)
	switch {
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return false, nil
	case err != nil:
		return false, w.unknown(r.Address, err)
	}
	return w.covers(r, e, s, nil)
}

// covers reports whether e is the sender's, or a group that the sender is a
// member of, directly or by way of another group.
func (w *walk) covers(r mail.Recipient, e *directory.Entry, s *sender, visited map[string]bool) (bool, error) {
	if e.Kind != directory.Group {
		return !s.address.IsNull() && (e.Owns(s.address.String()) || s.entry != nil && sameDN(s.entry.DN, e.DN)), nil
	}
	if visited == nil {
		visited = map[string]bool{}
	}
	if visited[e.DN] || len(visited) > maxSteps {
		return false, nil
	}
	visited[e.DN] = true
	for _, text := range e.MemberAddresses {
		if s.is(text) {
			return true, nil
		}
	}
	for _, dn := range e.MemberDNs {
		if s.entry != nil && (sameDN(s.entry.DN, dn) || under(s.entry.DN, dn)) {
			return true, nil
		}
	}
	for _, u := range e.MemberURLs {
		if in, err := w.found(r, u, s, visited); in || err != nil && !errors.Is(err, directory.ErrURL) {
			return in, err
		}
	}
	return w.nested(r, e, s, visited)
}

// nested looks into the groups that are members of e.
func (w *walk) nested(r mail.Recipient, e *directory.Entry, s *sender, visited map[string]bool) (bool, error) {
	if !w.now() && len(e.MemberDNs)+len(e.MemberAddresses) > w.x.cfg.ListLimit {
		return false, errLater
	}
	if in, err := w.oneOf(r, e.MemberDNs, s, visited); in || err != nil {
		return in, err
	}
	for _, text := range e.MemberAddresses {
		a, err := memberAddress(text)
		if err != nil {
			continue
		}
		m, err := w.lookup(a)
		switch {
		case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
			continue
		case err != nil:
			return false, w.unknown(r.Address, err)
		}
		if in, err := w.covers(r, m, s, visited); in || err != nil {
			return in, err
		}
	}
	return false, nil
}

// plainDN is a distinguished name without the spaces that may stand around its
// separators, in lower case.
func plainDN(dn string) string {
	if !strings.ContainsAny(dn, " ") {
		return strings.ToLower(dn)
	}
	parts := strings.Split(strings.ToLower(dn), ",")
	for i, p := range parts {
		name, value, _ := strings.Cut(p, "=")
		parts[i] = strings.TrimSpace(name) + "=" + strings.TrimSpace(value)
	}
	return strings.Join(parts, ",")
}

func sameDN(a, b string) bool { return strings.EqualFold(a, b) || plainDN(a) == plainDN(b) }

// under reports whether dn is below top.
func under(dn, top string) bool { return top != "" && strings.HasSuffix(plainDN(dn), ","+plainDN(top)) }

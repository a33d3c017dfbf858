package edit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// classes are the object classes of new entries. The classes of people and
// lists are the standard ones with what mail adds; groupOfURLs is the class of
// lists because it asks for no member, so that the last one can leave.
func classes(s *directory.Schema, k Kind) []string {
	generic := s.DomainClass == ""
	switch k {
	case Domain:
		return []string{"organization", s.DomainClass, "mailDomain"}
	case Group:
		if generic {
			return []string{"groupOfURLs", "inetMailGroup"}
		}
		return join([]string{"groupOfURLs"}, s.GroupClasses)
	}
	if generic {
		return []string{"inetOrgPerson", "inetLocalMailRecipient", "inetMailUser"}
	}
	return join([]string{"inetOrgPerson", "inetUser"}, s.UserClasses)
}

// join adds the classes of the first set.
func join(have []string, sets [][]string) []string {
	if len(sets) == 0 {
		return have
	}
	return more(have, sets[0])
}

// add makes a new entry.
func (ed *Editor) add(ctx context.Context, req Request) (*Result, error) {
	switch req.Kind {
	case Domain:
		return ed.addDomain(ctx, req)
	case User, Group:
	default:
		return nil, badf("kind %q", req.Kind)
	}
	a, err := mail.ParseAddress(written(req.Name), true)
	if err != nil {
		return nil, badf("address %q: %v", req.Name, err)
	}
	d, err := ed.check.Domain(ctx, a.Domain)
	if errors.Is(err, directory.ErrNotFound) {
		return nil, fmt.Errorf("domain %s is not hosted: add it first: %w", a.Domain, err)
	}
	if err != nil {
		return nil, err
	}
	raw := directory.Attributes{{Name: "objectClass", Values: classes(ed.s, req.Kind)}}
	put(&raw, ed.s.Mail, a.String())
	ed.defaults(&raw, req, a, d)
	if err := ed.apply(ctx, &raw, req); err != nil {
		return nil, err
	}
	for _, attr := range []string{"cn", "sn"} { // which a person must have
		if req.Kind == User && raw.First(attr) == "" {
			put(&raw, attr, a.Local)
		}
	}
	parent := req.Below
	if parent == "" {
		if parent, err = ed.parent(ctx, d, req.Kind); err != nil {
			return nil, err
		}
	}
	attr := "cn"
	if req.Kind == User {
		attr = ed.s.UID
	}
	value := raw.First(attr)
	if req.Kind == Group {
		// Two lists may have one title, so their names are told by the address.
		value = a.Local
		put(&raw, "cn", more([]string{a.Local}, raw.Get("cn"))...)
	}
	dn, err := ldap.Child(attr, value, parent)
	if err != nil {
		return nil, badf("%s %q: %v", attr, value, err)
	}
	if _, _, err := ed.raw(ctx, dn); err == nil {
		return nil, fmt.Errorf("%s: %w", dn, ldap.ErrExists)
	} else if !errors.Is(err, directory.ErrNotFound) {
		return nil, err
	}
	left, err := ed.left(ctx, d, req.Kind)
	if err != nil {
		return nil, err
	}
	if left == 0 {
		return nil, fmt.Errorf("domain %s has as many %ss as it may have", d.Name, req.Kind)
	}
	res, err := ed.put(ctx, &Result{Op: Add, Kind: req.Kind, DN: dn}, nil, raw)
	if err == nil && left > 0 {
		ed.room[roomKey(d, req.Kind)]--
	}
	return res, err
}

// defaults are the attributes of a new entry that nobody gave.
func (ed *Editor) defaults(raw *directory.Attributes, req Request, a mail.Address, d *directory.Domain) {
	name := a.Local
	if v := req.Values["name"]; len(v) > 0 {
		name = v[0]
	}
	set := func(attr, value string) {
		if attr != "" && value != "" {
			put(raw, attr, value)
		}
	}
	set("cn", name)
	if req.Kind == Group {
		set(ed.s.GroupStatus, "active")
		return
	}
	words := strings.Fields(name)
	if len(words) > 0 {
		set("sn", words[len(words)-1])
	}
	set(ed.s.UID, strings.ToLower(a.Local))
	set(ed.s.MailHost, d.PreferredMailHost)
	set(ed.s.MessageStore, d.PreferredStore)
	set(ed.s.DeliveryOption, "mailbox")
	set(ed.s.UserStatus, "active")
	set(ed.s.MailUserStatus, "active")
}

// parent is the entry that new entries of d go below.
func (ed *Editor) parent(ctx context.Context, d *directory.Domain, k Kind) (string, error) {
	key := string(k) + " " + d.BaseDN
	if dn, ok := ed.parents[key]; ok {
		return dn, nil
	}
	ou := "people"
	if k == Group {
		ou = "groups"
	}
	dn, err := ldap.Child("ou", ou, d.BaseDN)
	if err == nil {
		_, _, err = ed.raw(ctx, dn)
	}
	if errors.Is(err, directory.ErrNotFound) {
		dn, err = d.BaseDN, nil
	}
	if err == nil {
		ed.parents[key] = dn
	}
	return dn, err
}

func roomKey(d *directory.Domain, k Kind) string { return string(k) + " " + d.DN }

// left is how many users or groups d may still get, -1 without limit.
func (ed *Editor) left(ctx context.Context, d *directory.Domain, k Kind) (int, error) {
	key := roomKey(d, k)
	if n, ok := ed.room[key]; ok {
		return n, nil
	}
	attr := map[Kind]string{User: "sunMaxUsers", Group: "sunMaxGroups"}[k]
	_, raw, err := ed.raw(ctx, d.DN)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(raw.First(attr))
	if text == "" || strings.HasPrefix(text, "-") {
		ed.room[key] = -1
		return -1, nil
	}
	most, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %q is no number", attr, d.DN, text)
	}
	want := map[Kind]directory.Kind{User: directory.User, Group: directory.Group}[k]
	err = ed.d.Scan(ctx, d.BaseDN, ldap.MailEntries, []string{"objectClass"}, func(_ string, raw directory.Attributes) error {
		if ed.s.KindOf(raw.Get("objectClass")) == want {
			most--
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	ed.room[key] = max(most, 0)
	return ed.room[key], nil
}

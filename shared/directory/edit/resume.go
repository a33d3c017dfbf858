package edit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// A change of a name that takes several writes is noted in the entry itself
// before the first of them, as two values of an attribute, and the note is taken
// out by the last:
//
//	postern rename: user u0001@example.org to eva@example.org
//	postern rename from: - uid=u0001,ou=people,o=example.org,o=isp
//
// The first is the request. Whoever makes the same request again, from whatever
// host, finds the entry by it, wherever it is by then. The second is what the
// entry itself does not say any more then: its old name, and of a domain that
// ("-" of others), by which the rest of the references are found.

// intent is such a note.
type intent struct {
	request string // its first value
	domain  string // the old name of a domain
	from    string // the old name of the entry
	found   bool   // by the note: the request is one that was not finished
}

// asked is the first value of the note of a request.
func asked(what string, kind Kind, name, to string, also ...string) string {
	words := append([]string{what, string(kind), strings.TrimSpace(name), "to", strings.TrimSpace(to)}, also...)
	return directory.RenameRequest + strings.ToLower(strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " "))
}

// notes are the values of the note.
func (it *intent) notes() []string {
	domain := it.domain
	if domain == "" {
		domain = "-"
	}
	return []string{it.request, directory.RenameFrom + domain + " " + it.from}
}

// moved reports whether the entry has its new name already.
func (it *intent) moved(dn string) bool { return it.found && !sameName(it.from, dn) }

// unfinished looks for an entry with the note of a request; nil when there is
// none. dn and raw are the entry as it is.
func (ed *Editor) unfinished(ctx context.Context, request string) (it *intent, dn string, raw directory.Attributes, err error) {
	bases := ed.d.Bases()
	if root := ed.d.DCRoot(); root != "" {
		bases = append(slices.Clone(bases), root)
	}
	for _, base := range bases {
		found, err := ed.d.Find(ctx, base, []string{directory.RenameNote}, []string{request}, 2)
		if errors.Is(err, directory.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, "", nil, err
		}
		for _, e := range found {
			if dn, raw, err = ed.raw(ctx, e.DN); err != nil {
				return nil, "", nil, err
			}
			for _, v := range raw.Get(directory.RenameNote) {
				text, ok := strings.CutPrefix(v, directory.RenameFrom)
				domain, from, cut := strings.Cut(text, " ")
				if ok && cut {
					return &intent{request: request, domain: strings.TrimPrefix(domain, "-"), from: from, found: true}, dn, raw, nil
				}
			}
		}
	}
	return nil, "", nil, nil
}

// note writes down what m begins, unless it is written down, or one write does
// it all. The address that is to find the entry in its new place comes with it.
func (ed *Editor) note(ctx context.Context, m *moving) error {
	if ed.cfg.DryRun || !m.several || m.it.found {
		return nil
	}
	have := m.old.Get(directory.RenameNote)
	if i := slices.IndexFunc(have, directory.IsRenameNote); i >= 0 {
		return badf("%s is being renamed: finish that first (%s), or take the note out of its %s", m.res.DN, have[i], directory.RenameNote)
	}
	with := append(slices.Clone(have), m.it.notes()...)
	changes := []Edit{{Attribute: directory.RenameNote, Old: have, New: with}}
	if m.address != "" && !slices.ContainsFunc(ed.s.AddressAttributes(), func(attr string) bool { return holds(m.old.Get(attr), m.address) }) {
		attr := cmp.Or(alternate(ed.s), ed.s.Mail)
		had := m.old.Get(attr)
		changes = append(changes, Edit{Attribute: attr, Old: had, New: more(had, []string{m.address})})
	}
	res := &Result{Op: Set, Kind: m.res.Kind, DN: m.res.DN, Changes: changes}
	if _, err := ed.write(ctx, res, nil); err != nil {
		return err
	}
	for _, e := range changes {
		put(&m.old, e.Attribute, e.New...)
	}
	put(&m.raw, directory.RenameNote, with...)
	return nil
}

// finished takes the note out of the entry dn.
func (ed *Editor) finished(ctx context.Context, kind Kind, dn string) error {
	if ed.cfg.DryRun {
		return nil
	}
	dn, raw, err := ed.raw(ctx, dn)
	if err != nil {
		return err
	}
	have := raw.Get(directory.RenameNote)
	without := slices.DeleteFunc(slices.Clone(have), directory.IsRenameNote)
	if len(without) == len(have) {
		return nil
	}
	res := &Result{Op: Set, Kind: kind, DN: dn, Changes: []Edit{{Attribute: directory.RenameNote, Old: have, New: without}}}
	_, err = ed.write(ctx, res, nil)
	return err
}

// there reports whether what is to be added is there already: an entry with all
// values that it would have. ErrExists when it is another one.
func (ed *Editor) there(ctx context.Context, dn string, want directory.Attributes) (bool, error) {
	_, have, err := ed.raw(ctx, dn)
	if errors.Is(err, directory.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, a := range want {
		values := have.Get(a.Name)
		if len(less(a.Values, values)) > 0 || len(values) != len(a.Values) && !strings.EqualFold(a.Name, "objectClass") {
			return false, fmt.Errorf("%s: %w", dn, ldap.ErrExists)
		}
	}
	return true, nil
}

// begun returns an error unless dn can be made the base of a new domain, or has
// been, by a request that was not finished: then nobody is below it yet.
func (ed *Editor) begun(ctx context.Context, dn string, want directory.Attributes) error {
	ok, err := ed.there(ctx, dn, want)
	if !ok {
		return err
	}
	if _, err := ed.empty(ctx, dn); err != nil {
		return fmt.Errorf("%s: %w", dn, ldap.ErrExists)
	}
	return nil
}

// made are the steps that add what is there already, because a request was not
// finished. ErrExists when nothing is left to be done.
func (ed *Editor) made(ctx context.Context, steps []step) (map[*Result]bool, error) {
	done := map[*Result]bool{}
	for _, s := range steps {
		if s.res.Op != Add {
			continue
		}
		ok, err := ed.there(ctx, s.res.DN, s.raw)
		if err != nil {
			return nil, err
		}
		if ok {
			done[s.res] = true
		}
	}
	if len(done) > 0 && len(done) == len(steps) {
		return nil, fmt.Errorf("%s: %w", steps[0].res.DN, ldap.ErrExists)
	}
	return done, nil
}

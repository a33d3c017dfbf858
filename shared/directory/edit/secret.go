package edit

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory"
)

// hashPasswords replaces passwords in the clear that were not there before. One
// that is the old one leaves the old value.
func (ed *Editor) hashPasswords(old, raw directory.Attributes) {
	for i := range raw {
		if !strings.EqualFold(raw[i].Name, "userPassword") {
			continue
		}
		before := old.Get(raw[i].Name)
		raw[i].Values = slices.Clone(raw[i].Values)
		for j, v := range raw[i].Values {
			if strings.HasPrefix(v, "{") || slices.Contains(before, v) {
				continue
			}
			if k := slices.IndexFunc(before, func(have string) bool { return auth.VerifyPassword(have, v) }); k >= 0 {
				raw[i].Values[j] = before[k]
			} else {
				raw[i].Values[j] = ed.cfg.Hash(v)
			}
		}
	}
}

// Secret reports whether the values of an attribute are nobody's business.
func Secret(s *directory.Schema, attr string) bool {
	base, _, _ := strings.Cut(attr, ";")
	return strings.EqualFold(base, "userPassword") || s.AuthPassword != "" && strings.EqualFold(base, s.AuthPassword)
}

// hide makes secret values unreadable.
func hide(s *directory.Schema, changes []Edit) {
	for i, c := range changes {
		if Secret(s, c.Attribute) {
			changes[i] = Edit{c.Attribute, stars(c.Old), stars(c.New)}
		}
	}
}

func stars(values []string) []string {
	if len(values) == 0 {
		return nil
	}
	return []string{"***"}
}

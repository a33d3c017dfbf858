package edit

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

func clone(raw directory.Attributes) directory.Attributes { return raw.Clone() }

// put replaces the values of an attribute; without any it is gone.
func put(raw *directory.Attributes, name string, values ...string) { raw.Put(name, values...) }

// more adds values that are not there, less takes values away; both compare
// without case.
func more(have, add []string) []string {
	for _, v := range add {
		if !holds(have, v) {
			have = append(slices.Clip(have), v)
		}
	}
	return have
}

func less(have, take []string) []string {
	return slices.DeleteFunc(slices.Clone(have), func(v string) bool { return holds(take, v) })
}

func holds(list []string, v string) bool {
	return slices.ContainsFunc(list, func(have string) bool { return strings.EqualFold(have, v) })
}

// Diff is what differs between two states of an entry, by name: see diff.
func Diff(old, raw directory.Attributes) []Edit { return diff(old, raw) }

// diff is what differs between two states of an entry, by name. Attributes that
// servers keep themselves are not among them.
func diff(old, raw directory.Attributes) []Edit {
	out := []Edit{}
	seen := map[string]bool{}
	for _, a := range slices.Concat(raw, old) {
		key := strings.ToLower(a.Name)
		if seen[key] {
			continue
		}
		seen[key] = true
		before, after := old.Get(a.Name), raw.Get(a.Name)
		if !sameValues(before, after) {
			out = append(out, Edit{a.Name, before, after})
		}
	}
	slices.SortStableFunc(out, func(a, b Edit) int {
		return strings.Compare(strings.ToLower(a.Attribute), strings.ToLower(b.Attribute))
	})
	return out
}

func sameValues(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	have := make(map[string]int, len(a))
	for _, v := range a {
		have[v]++
	}
	for _, v := range b {
		if have[v] == 0 {
			return false
		}
		have[v]--
	}
	return true
}

func hasClass(raw directory.Attributes, class string) bool {
	return holds(raw.Get("objectClass"), class)
}

// keepName sees to it that the value that an entry is named by stays among its
// values.
func keepName(dn string, raw *directory.Attributes) error {
	attr, value, ok := ldap.First(dn)
	if !ok || holds(raw.Get(attr), value) {
		return nil
	}
	if !strings.EqualFold(attr, "cn") {
		return badf("%s %s is part of the name of the entry: delete it and add another", attr, value)
	}
	put(raw, attr, append([]string{value}, raw.Get(attr)...)...)
	return nil
}

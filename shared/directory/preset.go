package directory

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Presets are the names that Preset knows.
var Presets = []string{"sun-schema1", "sun-schema2", "sun-compat", "generic"}

// Preset returns the schema of that name.
func Preset(name string) (Schema, error) {
	switch strings.ToLower(name) {
	case "sun-schema1":
		s := SunSchema2()
		s.Name, s.DomainSchema = "sun-schema1", sunDomains(LayoutDC)
		return s, nil
	case "sun-compat":
		s := SunSchema2()
		s.Name, s.DomainSchema = "sun-compat", sunDomains(LayoutCompatible)
		return s, nil
	case "sun-schema2", "":
		return SunSchema2(), nil
	case "generic":
		return Generic(), nil
	}
	return Schema{}, fmt.Errorf("unknown schema %q: one of %s", name, strings.Join(Presets, ", "))
}

// tags are the sets of object classes, and the attributes with addresses, of
// the generations of the messaging servers.
var tags = map[string]struct {
	user, group           []string
	alternate, equivalent []string
}{
	"ims50": {
		[]string{"inetLocalMailRecipient", "inetMailUser"},
		[]string{"inetLocalMailRecipient", "inetMailGroup"},
		[]string{"mailAlternateAddress"},
		[]string{"mailEquivalentAddress"},
	},
	"nms41": {
		[]string{"mailRecipient", "nsMessagingServerUser"},
		[]string{"mailGroup"},
		[]string{"mailAlternateAddress"},
		nil,
	},
	"sims40": {
		[]string{"inetMailRouting", "inetMailUser"},
		[]string{"inetMailRouting", "inetMailGroup"},
		[]string{"rfc822MailAlias"},
		nil,
	},
}

// SetTags makes s take the object classes and address attributes of the tags
// ims50, nms41 and sims40, in the order given.
func (s *Schema) SetTags(names ...string) error {
	var users, groups [][]string
	var alternate, equivalent []string
	for _, name := range names {
		t, ok := tags[strings.ToLower(name)]
		if !ok {
			return fmt.Errorf("unknown tag %q: one of ims50, nms41, sims40", name)
		}
		users, groups = append(users, t.user), append(groups, t.group)
		alternate, equivalent = append(alternate, t.alternate...), append(equivalent, t.equivalent...)
	}
	s.UserClasses, s.GroupClasses = users, groups
	s.Alternate, s.Equivalent = distinct(alternate), distinct(equivalent)
	return nil
}

// ParseClasses reads sets of object classes, each joined by "+".
func ParseClasses(sets []string) ([][]string, error) {
	var out [][]string
	for _, set := range sets {
		classes := strings.Split(set, "+")
		for i, c := range classes {
			classes[i] = strings.TrimSpace(c)
			if !attributeName(classes[i]) {
				return nil, fmt.Errorf("bad object classes %q", set)
			}
		}
		out = append(out, classes)
	}
	return out, nil
}

// attributeName reports whether s can name an attribute or class (RFC 4512
// 1.4), options included.
func attributeName(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != ';' && c != '_' {
			return false
		}
	}
	return true
}

// unnamed are fields of Schema that are no names of attributes.
var unnamed = []string{"name", "separator", "domainclass", "dcfilter", "organizationfilter", "domainaliasmark"}

// fields calls f with every field that names attributes: purpose in lower case,
// and a *string or *[]string.
func (s *Schema) fields(f func(purpose string, p any)) {
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if field.Anonymous {
				walk(v.Field(i))
				continue
			}
			purpose := strings.ToLower(field.Name)
			if slices.Contains(unnamed, purpose) {
				continue
			}
			switch p := v.Field(i).Addr().Interface().(type) {
			case *string, *[]string:
				f(purpose, p)
			}
		}
	}
	walk(reflect.ValueOf(s).Elem())
}

// Purposes are the left sides that Rename knows besides names of attributes.
func (s *Schema) Purposes() []string {
	var out []string
	s.fields(func(purpose string, _ any) { out = append(out, purpose) })
	slices.Sort(out)
	return out
}

// Rename changes the names of attributes. Each rule is "purpose=attribute", or
// "purpose=attribute,attribute" where a purpose may stand in several; instead
// of a purpose it may give the name that is to be replaced. Nothing on the
// right side means that the site has no such attribute. Two purposes may share
// one attribute.
func (s *Schema) Rename(rules ...string) error {
	for _, rule := range rules {
		left, right, ok := strings.Cut(rule, "=")
		left = strings.TrimSpace(left)
		if !ok || left == "" {
			return fmt.Errorf("bad rule %q: not purpose=attribute", rule)
		}
		var names []string
		for _, n := range strings.Split(right, ",") {
			if n = strings.TrimSpace(n); n == "" && right == "" {
				continue
			} else if !attributeName(n) {
				return fmt.Errorf("bad rule %q: bad attribute %q", rule, n)
			}
			names = append(names, n)
		}
		if err := s.rename(left, names); err != nil {
			return fmt.Errorf("bad rule %q: %w", rule, err)
		}
	}
	return nil
}

func (s *Schema) rename(left string, names []string) error {
	purpose := strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(left))
	var exact any
	s.fields(func(p string, field any) {
		if p == purpose {
			exact = field
		}
	})
	switch field := exact.(type) {
	case *string:
		return setOne(field, names)
	case *[]string:
		*field = names
		return nil
	}
	found := false
	var err error
	s.fields(func(_ string, field any) {
		switch field := field.(type) {
		case *string:
			if strings.EqualFold(*field, left) {
				found, err = true, setOne(field, names)
			}
		case *[]string:
			if i := slices.IndexFunc(*field, func(v string) bool { return strings.EqualFold(v, left) }); i >= 0 {
				found, *field = true, slices.Concat((*field)[:i], names, (*field)[i+1:])
			}
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("no purpose or attribute %q", left)
	}
	return err
}

func setOne(field *string, names []string) error {
	switch len(names) {
	case 0:
		*field = ""
	case 1:
		*field = names[0]
	default:
		return fmt.Errorf("only one attribute has this purpose")
	}
	return nil
}

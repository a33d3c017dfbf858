package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
)

// option is a delivery option as relays define it.
type option struct {
	name          string
	users, groups bool
	lost          bool // its channel does not exist
}

// parseOptions reads definitions in the language of the relays.
func parseOptions(definitions []string) ([]option, error) {
	var out []option
	for _, text := range definitions {
		left, template, ok := strings.Cut(text, "=")
		name := strings.TrimLeft(left, "*&@$^#/! ")
		if !ok || name == "" {
			return nil, fmt.Errorf("lint: bad delivery option %q", text)
		}
		prefix := left[:len(left)-len(name)]
		o := option{
			name: strings.ToLower(strings.TrimSpace(name)), users: strings.Contains(prefix, "*"), groups: strings.Contains(prefix, "&"),
			lost: strings.HasSuffix(template, "@native-daemon") || strings.HasSuffix(template, "@pipe-daemon"),
		}
		if !o.users && !o.groups {
			o.users, o.groups = true, true
		}
		out = append(out, o)
	}
	return out, nil
}

// named are the single words of the entry's options.
func named(e *directory.Entry) (out []string) {
	for _, v := range e.DeliveryOptions {
		for one := range strings.SplitSeq(v, ",") {
			if one = strings.TrimSpace(one); one != "" {
				out = append(out, one)
			}
		}
	}
	return out
}

// judge says which option a word is, and which rule it breaks if any.
func (r *run) judge(e *directory.Entry, word string) (option, string) {
	i := slices.IndexFunc(r.options, func(o option) bool { return strings.EqualFold(o.name, word) })
	switch {
	case i < 0:
		return option{}, "bad-option"
	case e.Kind == directory.User && !r.options[i].users, e.Kind == directory.Group && !r.options[i].groups:
		return option{}, "wrong-option"
	case r.options[i].lost:
		return option{}, "dead-option"
	}
	return r.options[i], ""
}

// active are the options that take effect, the default when there is none.
func (r *run) active(e *directory.Entry) (out []option) {
	for _, word := range named(e) {
		if o, rule := r.judge(e, word); rule == "" && !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	if len(out) == 0 {
		if e.Kind == directory.Group {
			return []option{{name: "members", groups: true}}
		}
		return []option{{name: "mailbox", users: true}}
	}
	return out
}

func has(set []option, name string) bool {
	return slices.ContainsFunc(set, func(o option) bool { return o.name == name })
}

// deliveryOptions checks the words themselves.
func (r *run) deliveryOptions(e *directory.Entry) error {
	words, good := named(e), 0
	for _, word := range words {
		_, rule := r.judge(e, word)
		if rule == "" {
			good++
			continue
		}
		if err := r.say(rule, e.DN, r.s.DeliveryOption, word); err != nil {
			return err
		}
	}
	if len(words) > 0 && good == 0 {
		return r.say("no-option", e.DN, r.s.DeliveryOption, strings.Join(words, ", "))
	}
	return nil
}

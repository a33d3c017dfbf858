package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// envPrefix begins the names of our variables of the environment.
const envPrefix = "POSTERN"

// SourceDefault is the Source of an option that nobody has given.
const SourceDefault = "default"

// Setting is one option with its value, as a person would write it. In a list
// of objects each option of each object is one, with an index in its name.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`  // a secret is "***"
	Source string `json:"source"` // "default", "FILE:LINE", "environment NAME" or "flag --NAME"
	Reload bool   `json:"reload"` // a change takes effect at a reload; the others need a restart
}

// Difference is an option that two configurations disagree about. A secret is
// "***" on both sides. Old or New is empty where the object is in one of them
// only.
type Difference struct {
	Name      string `json:"name"`
	Old       string `json:"old"`
	New       string `json:"new"`
	OldSource string `json:"old_source,omitempty"`
	NewSource string `json:"new_source,omitempty"`
	Reload    bool   `json:"reload"`
}

// origins says where the options that are not left to their defaults come from.
// v holds the file only.
func origins(file string, lines map[string]int, v *viper.Viper, tier Tier, env bool, flags *pflag.FlagSet) map[string]string {
	from := map[string]string{}
	for name, n := range lines {
		// An option without a value is left to its default.
		if indexed := strings.ContainsRune(name, '['); indexed || v.Get(name) != nil {
			from[name] = fmt.Sprintf("%s:%d", file, n)
		}
	}
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier == 0 || !scalar(o) {
			continue
		}
		if name := envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(o.Name, ".", "_")); env && os.Getenv(name) != "" {
			from[o.Name] = "environment " + name
		}
		if flags != nil && flags.Changed(o.Name) {
			from[o.Name] = "flag --" + o.Name
		}
	}
	return from
}

// keepOrigin makes next say of an option and of what is in it what old says.
func keepOrigin(next, old map[string]string, name string) {
	of := func(key, _ string) bool { return key == name || strings.HasPrefix(key, name+"[") }
	maps.DeleteFunc(next, of)
	for key, from := range old {
		if of(key, from) {
			next[key] = from
		}
	}
}

func commonOf[T Node](c *T) *Common {
	switch c := any(c).(type) {
	case *Relay:
		return &c.Common
	case *Backend:
		return &c.Common
	}
	return &any(c).(*Witness).Common
}

// Flags are the flags that c was loaded with, nil without any: a reload wants
// them again.
func Flags[T Node](c *T) *pflag.FlagSet { return commonOf(c).flags }

// Values lists every option of c with its value, secrets hidden.
func Values[T Node](c *T) map[string]any {
	m := map[string]any{}
	walk(c, func(name string, _ *Option, v reflect.Value) {
		m[name] = printable(v.Interface())
	})
	return m
}

func printable(v any) any {
	switch v := v.(type) {
	case Secret:
		return v.String()
	case Size:
		return v.String()
	case interface{ String() string }: // durations
		return v.String()
	}
	return v
}

// walk shows f every option of c, lists of objects whole.
func walk[T Node](c *T, f func(name string, o *Option, v reflect.Value)) {
	tier := tierOf[T]()
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier == 0 || strings.Contains(o.Name, "[]") {
			continue
		}
		if v, err := fieldOf(reflect.ValueOf(c).Elem(), o.Name); err == nil { // a test holds structs and table together
			f(o.Name, o, v)
		}
	}
}

// leaf is one option, also inside objects.
type leaf struct {
	name string
	o    *Option
	v    reflect.Value
}

// leaves lists the options of c in the order of the table.
func leaves[T Node](c *T) (out []leaf) {
	tier := tierOf[T]()
	var objects func(path string, o *Option, list reflect.Value)
	objects = func(path string, o *Option, list reflect.Value) {
		for i := range list.Len() {
			for j := range Table {
				in := &Table[j]
				rest, ok := strings.CutPrefix(in.Name, o.Name+"[].")
				if !ok || in.Tier&tier == 0 || strings.Contains(rest, "[]") {
					continue
				}
				v, err := fieldOf(list.Index(i), rest)
				if err != nil {
					continue
				}
				name := path + "[" + strconv.Itoa(i) + "]." + rest
				if in.Type == Objects {
					objects(name, in, v)
				} else {
					out = append(out, leaf{name, in, v})
				}
			}
		}
	}
	walk(c, func(name string, o *Option, v reflect.Value) {
		if o.Type == Objects {
			objects(name, o, v)
		} else {
			out = append(out, leaf{name, o, v})
		}
	})
	return out
}

// Settings lists every option of c in the order of the reference.
func Settings[T Node](c *T) []Setting {
	var out []Setting
	for _, l := range leaves(c) {
		out = append(out, Setting{l.name, text(l.v.Interface()), source(c, l.name), l.o.Reload})
	}
	return out
}

func source[T Node](c *T, name string) string {
	if from, ok := commonOf(c).from[name]; ok {
		return from
	}
	return SourceDefault
}

// text is a value as it would be written in a file.
func text(v any) string {
	switch v := v.(type) {
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case time.Duration:
		return short(v)
	case []string:
		return strings.Join(v, ", ")
	case []time.Duration:
		list := make([]string, len(v))
		for i, d := range v {
			list[i] = short(d)
		}
		return strings.Join(list, ", ")
	case Networks:
		list := make([]string, len(v))
		for i, n := range v {
			list[i] = n.String()
		}
		return strings.Join(list, ", ")
	}
	return fmt.Sprint(v)
}

// short leaves out the units of which there are none: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Compare lists what has to change to get from old to next, in the order of the
// reference; options that only old has come last.
func Compare[T Node](old, next *T) []Difference {
	was := leaves(old)
	out := []Difference{}
	seen := map[string]bool{}
	for _, l := range leaves(next) {
		seen[l.name] = true
		d := Difference{Name: l.name, New: text(l.v.Interface()), NewSource: source(next, l.name), Reload: l.o.Reload}
		if i := slices.IndexFunc(was, func(w leaf) bool { return w.name == l.name }); i >= 0 {
			if same(was[i].v, l.v) {
				continue
			}
			d.Old, d.OldSource = text(was[i].v.Interface()), source(old, l.name)
		}
		out = append(out, d)
	}
	for _, l := range was {
		if !seen[l.name] {
			out = append(out, Difference{Name: l.name, Old: text(l.v.Interface()), OldSource: source(old, l.name), Reload: l.o.Reload})
		}
	}
	return out
}

// same does not tell an empty list from none.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

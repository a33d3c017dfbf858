package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"gopkg.in/yaml.v3"
)

// Node is Relay, Backend or Witness.
type Node interface{ Relay | Backend | Witness }

func tierOf[T Node]() Tier {
	switch any((*T)(nil)).(type) {
	case *Relay:
		return TierRelay
	case *Backend:
		return TierBackend
	default:
		return TierWitness
	}
}

// AddFlags adds a flag for every option of the node that is not a list of
// objects, and --config for the file.
func AddFlags[T Node](fs *pflag.FlagSet) {
	tier := tierOf[T]()
	fs.String("config", "", "configuration file (YAML)")
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier == 0 || !scalar(o) {
			continue
		}
		fs.String(o.Name, o.Default, o.Help)
	}
}

func scalar(o *Option) bool { return o.Type != Objects && !strings.Contains(o.Name, "[]") }

// Load reads file (if it is not ""), environment and flags (if not nil), checks
// everything and returns the configuration. Every fault found is in the error,
// one on each line.
func Load[T Node](file string, flags *pflag.FlagSet) (*T, error) {
	if file == "" {
		return Parse[T]("", nil, Env, flags)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse[T](file, text, Env, flags)
}

// Whether Parse looks at the environment.
const (
	Env   = true
	NoEnv = false
)

// Parse is Load with the text of the file at hand; name is what errors and
// Settings call it.
func Parse[T Node](name string, text []byte, env bool, flags *pflag.FlagSet) (*T, error) {
	tier := tierOf[T]()
	v := viper.New()
	v.SetConfigType("yaml")
	v.SetEnvPrefix(envPrefix)
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	lines, err := checkKeys(name, text, tier)
	if err != nil {
		return nil, err
	}
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	from := origins(name, lines, v, tier, env, flags)
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier == 0 || strings.Contains(o.Name, "[]") {
			continue
		}
		if o.Type == Objects {
			continue
		}
		v.SetDefault(o.Name, o.Default)
		if env {
			if err := v.BindEnv(o.Name); err != nil {
				return nil, err
			}
		}
		if flags != nil {
			if f := flags.Lookup(o.Name); f != nil {
				if err := v.BindPFlag(o.Name, f); err != nil {
					return nil, err
				}
			}
		}
	}
	c := new(T)
	if err := decode(v, c, name, lines, tier); err != nil {
		return nil, err
	}
	commonOf(c).from, commonOf(c).flags = from, flags
	return c, nil
}

// decode fills c and checks it. Values are decoded one option at a time, so
// that an error can name the option and its line.
func decode[T Node](v *viper.Viper, c *T, file string, lines map[string]int, tier Tier) error {
	var faults []error
	fault := func(name string, err error) {
		at := name
		if n := lines[name]; n > 0 {
			at = fmt.Sprintf("%s:%d: %s", file, n, name)
		}
		faults = append(faults, fmt.Errorf("%s: %w", at, err))
	}
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier == 0 || strings.Contains(o.Name, "[]") {
			continue
		}
		raw := v.Get(o.Name)
		if raw == nil {
			if o.Need {
				fault(o.Name, errors.New("must be given"))
			}
			continue
		}
		field, err := fieldOf(reflect.ValueOf(c).Elem(), o.Name)
		if err != nil {
			return err
		}
		if err := decodeTo(field, raw); err != nil {
			fault(o.Name, plain(err, o))
			continue
		}
		check(field, o, tier, lines, o.Name, fault)
	}
	if faults != nil {
		return errors.Join(faults...)
	}
	resolve(reflect.ValueOf(c).Elem())
	return nil
}

// decodeTo puts one value of a file, or a default, into its field.
func decodeTo(field reflect.Value, raw any) error {
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:           field.Addr().Interface(),
		ErrorUnused:      true,
		WeaklyTypedInput: true,
		DecodeHook:       mapstructure.DecodeHookFuncType(decodeHook),
	})
	if err != nil {
		return err
	}
	return dec.Decode(raw)
}

// plain reduces an error of the decoder to the sentence of the hook inside it,
// which holds no value of a secret.
func plain(err error, o *Option) error {
	if o.Type == Hidden {
		return errors.New("is not a string")
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	text := strings.TrimPrefix(err.Error(), "error decoding '': ")
	return fmt.Errorf("%s (type: %s)", text, o.Type)
}

// fieldOf finds the field of an option by the tags, or the names in lower case.
func fieldOf(v reflect.Value, name string) (reflect.Value, error) {
	for part := range strings.SplitSeq(name, ".") {
		next, ok := child(v, part)
		if !ok {
			return v, fmt.Errorf("configuration: %s has no field for %s", v.Type(), name)
		}
		v = next
	}
	return v, nil
}

func child(v reflect.Value, part string) (reflect.Value, bool) {
	for f, fv := range fields(v) {
		if key(f) == part {
			return fv, true
		}
	}
	return v, false
}

// fields lists the fields of a struct, those of embedded structs among them.
func fields(v reflect.Value) map[*reflect.StructField]reflect.Value {
	m := map[*reflect.StructField]reflect.Value{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			for k, fv := range fields(v.Field(i)) {
				m[k] = fv
			}
			continue
		}
		m[&f] = v.Field(i)
	}
	return m
}

func key(f *reflect.StructField) string {
	if tag := f.Tag.Get("mapstructure"); tag != "" {
		return tag
	}
	return strings.ToLower(f.Name)
}

// check applies the rules of o to a decoded value, and those of the options
// inside to each object of a list, which get their defaults here.
func check(field reflect.Value, o *Option, tier Tier, lines map[string]int, path string, fault func(string, error)) {
	if o.Need && field.IsZero() || o.Need && field.Kind() == reflect.Slice && field.Len() == 0 {
		fault(path, errors.New("must be given"))
		return
	}
	if o.Type == Objects {
		for i := range field.Len() {
			for j := range Table {
				in := &Table[j]
				rest, ok := strings.CutPrefix(in.Name, o.Name+"[].")
				if !ok || in.Tier&tier == 0 || strings.Contains(rest, ".") || strings.Contains(rest, "[") {
					continue
				}
				f, err := fieldOf(field.Index(i), rest)
				if err != nil {
					fault(path, err)
					continue
				}
				name := path + "[" + strconv.Itoa(i) + "]." + rest
				if in.Default != "" && lines[name] == 0 {
					if err := decodeTo(f, in.Default); err != nil {
						fault(name, plain(err, in))
						continue
					}
				}
				check(f, in, tier, lines, name, fault)
			}
		}
		return
	}
	if err := checkValue(field, o); err != nil {
		fault(path, err)
	}
}

func checkValue(field reflect.Value, o *Option) error {
	var words []string
	var n int64
	bounded := false
	switch x := field.Interface().(type) {
	case string:
		if x != "" {
			words = []string{x}
		}
	case []string:
		words = x
	case time.Duration:
		n, bounded = int64(x/time.Second), true
	case int:
		n, bounded = int64(x), true
	case Size:
		n, bounded = int64(x), true
	}
	for _, w := range words {
		if o.Values != nil && !contains(o.Values, w) {
			return fmt.Errorf("%q is none of %s", w, strings.Join(o.Values, ", "))
		}
		if o.Type == HostPort || o.Type == HostPorts {
			if err := checkHostPort(w); err != nil {
				return err
			}
		}
		if strings.HasPrefix(o.Name, "bench.") && o.Type == HostPort && !loopback(w) {
			return fmt.Errorf("%q is not a loopback address", w)
		}
	}
	if bounded && n < o.Min {
		return fmt.Errorf("must be at least %s", o.bound(o.Min))
	}
	if bounded && o.Max > 0 && n > o.Max {
		return fmt.Errorf("must be at most %s", o.bound(o.Max))
	}
	return nil
}

func (o *Option) bound(n int64) string {
	switch o.Type {
	case Octets:
		return Size(n).String()
	case Duration:
		return (time.Duration(n) * time.Second).String()
	}
	return strconv.FormatInt(n, 10)
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

func loopback(hostport string) bool {
	host, _, _ := net.SplitHostPort(hostport)
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// resolve makes the names of files begin in dir.
func resolve(c reflect.Value) {
	dir := c.FieldByName("Dir").String()
	for i := range Table {
		o := &Table[i]
		if o.Type != File || o.Name == "dir" || strings.Contains(o.Name, "[]") {
			continue
		}
		f, err := fieldOf(c, o.Name)
		if err != nil {
			continue // an option of another tier
		}
		if name := f.String(); name != "" && !filepath.IsAbs(name) {
			f.SetString(filepath.Join(dir, name))
		}
	}
	if g := c.FieldByName("Groups"); g.IsValid() {
		for i := range g.Len() {
			d := g.Index(i).FieldByName("Dir")
			if d.String() == "" {
				d.SetString(g.Index(i).FieldByName("Pair").String())
			}
			if !filepath.IsAbs(d.String()) {
				d.SetString(filepath.Join(dir, d.String()))
			}
		}
	}
}

// checkKeys finds keys that are in no row, and the lines of those that are.
func checkKeys(file string, text []byte, tier Tier) (map[string]int, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	lines := map[string]int{}
	var faults []error
	var walk func(n *yaml.Node, row, path string)
	walk = func(n *yaml.Node, row, path string) {
		switch n.Kind {
		case yaml.AliasNode: // it could lead back to itself
			faults = append(faults, fmt.Errorf("%s:%d: aliases are not taken", file, n.Line))
		case yaml.SequenceNode:
			for i, e := range n.Content {
				walk(e, row+"[]", fmt.Sprintf("%s[%d]", path, i))
			}
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				k := n.Content[i]
				name, at := strings.ToLower(k.Value), k.Value
				if row != "" {
					name, at = row+"."+name, path+"."+k.Value
				}
				if !known(name, tier) {
					faults = append(faults, fmt.Errorf("%s:%d: unknown option %q%s", file, k.Line, at, nearest(name, tier)))
					continue
				}
				lines[strings.ToLower(at)] = k.Line
				if o := find(name, tier); o == nil || o.Type == Objects {
					walk(n.Content[i+1], name, strings.ToLower(at))
				}
			}
		case yaml.ScalarNode:
			if row == "" && n.Value != "" {
				faults = append(faults, fmt.Errorf("%s:%d: want options, one on each line, as NAME: VALUE", file, n.Line))
			} else if o := find(row, tier); o == nil && n.Value != "" && !strings.HasSuffix(row, "[]") {
				faults = append(faults, fmt.Errorf("%s:%d: %s holds options, not a value", file, n.Line, path))
			}
		}
	}
	for _, n := range doc.Content {
		walk(n, "", "")
	}
	return lines, errors.Join(faults...)
}

// known reports whether name is an option or the beginning of one.
func known(name string, tier Tier) bool {
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier != 0 && (o.Name == name || strings.HasPrefix(o.Name, name+".")) {
			return true
		}
	}
	return false
}

// nearest names the option that was probably meant, or the tier it belongs to.
func nearest(name string, tier Tier) string {
	best, dist := "", 4
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier == 0 {
			if o.Name == name {
				return fmt.Sprintf(", it belongs to: %s", o.Tier)
			}
			continue
		}
		if d := editDistance(name, o.Name); d < dist {
			best, dist = o.Name, d
		}
		// A section given one letter wrong is near a prefix.
		if i := strings.LastIndexByte(o.Name, '.'); i > 0 {
			if d := editDistance(name, o.Name[:i]); d < dist {
				best, dist = o.Name[:i], d
			}
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// editDistance counts insertions, deletions and replacements between a and b,
// which are names of options: short.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diag, row[j] = row[j], min(row[j]+1, row[j-1]+1, diag+cost)
		}
	}
	return row[len(b)]
}

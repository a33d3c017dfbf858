package config

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Secret is a value that must not appear in a log, a dump or an error.
type Secret string

const stars = "***"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return stars
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format hides the value from every verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// MarshalJSON hides the value.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalYAML hides the value.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// SecretOf returns s, or what file holds without the final line end when file
// is given.
func SecretOf(s Secret, file string) (Secret, error) {
	if file == "" {
		return s, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return Secret(strings.TrimRight(string(b), "\r\n")), nil
}

// Size is a number of octets, written as 4096, 64KB, 50MB or 2GB with powers
// of 1,024.
type Size int64

var units = []struct {
	name string
	n    int64
}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}}

func (s Size) String() string {
	for _, u := range units {
		if int64(s) >= u.n && int64(s)%u.n == 0 {
			return strconv.FormatInt(int64(s)/u.n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText prints s as it would be written in a file.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ParseSize reads a Size.
func ParseSize(text string) (Size, error) {
	digits, factor := strings.TrimSpace(text), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(strings.ToUpper(digits), u.name); ok {
			digits, factor = strings.TrimSpace(rest), u.n
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return 0, fmt.Errorf("%q is not a size: want octets, or a number with KB, MB, GB or TB", text)
	}
	return Size(n * factor), nil
}

// Networks are address blocks, written as 192.0.2.0/24 or a single address.
type Networks []netip.Prefix

// Contains reports whether addr lies in one of the blocks.
func (n Networks) Contains(addr netip.Addr) bool {
	addr = addr.Unmap()
	for _, p := range n {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func parseNetworks(list []string) (Networks, error) {
	n := make(Networks, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, fmt.Errorf("%q is not an address block", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("%q has bits beyond its length, want %s", s, p.Masked())
		}
		n = append(n, p)
	}
	return n, nil
}

// checkHostPort accepts host:port; the host may be empty where listening.
func checkHostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q has no port between 0 and 65535", s)
	}
	return nil
}

// decodeHook turns the values of files, environment and flags into our types.
func decodeHook(_, to reflect.Type, v any) (any, error) {
	switch to {
	case reflect.TypeFor[Size]():
		return ParseSize(fmt.Sprint(v))
	case reflect.TypeFor[time.Duration]():
		s, ok := v.(string)
		if !ok {
			if d, ok := v.(time.Duration); ok {
				return d, nil
			}
			return nil, fmt.Errorf("%v is not a duration: write a unit, as in 300ms, 5s, 10m, 4h", v)
		}
		return parseDuration(s)
	case reflect.TypeFor[Networks]():
		list, err := stringList(v)
		if err != nil {
			return nil, err
		}
		return parseNetworks(list)
	case reflect.TypeFor[[]string]():
		return stringList(v)
	case reflect.TypeFor[[]time.Duration]():
		list, err := stringList(v)
		if err != nil {
			return nil, err
		}
		ds := make([]time.Duration, len(list))
		for i, s := range list {
			if ds[i], err = parseDuration(s); err != nil {
				return nil, err
			}
		}
		return ds, nil
	}
	if s, ok := v.(string); ok && to.Kind() == reflect.Bool {
		switch strings.ToLower(s) {
		case "yes", "true", "on", "1":
			return true, nil
		case "no", "false", "off", "0", "":
			return false, nil
		}
		return nil, fmt.Errorf("%q is neither yes nor no", s)
	}
	return v, nil
}

// parseDuration reads time.ParseDuration's form, and days: "4d".
func parseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 10000 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration: write 300ms, 5s, 10m, 4h or 5d", s)
	}
	return d, nil
}

// stringList accepts a YAML sequence, or words with commas between them.
func stringList(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		var list []string
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
		return list, nil
	case []string:
		return v, nil
	case []any:
		list := make([]string, 0, len(v))
		for _, e := range v {
			switch e.(type) {
			case string, int, float64, bool:
				list = append(list, fmt.Sprint(e))
			default:
				return nil, fmt.Errorf("%v is not a list of words", v)
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("%v is not a list", v)
}

package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "rewrite options.md")

const relayYAML = `
node: relay1
cluster: east
dir: /var/lib/postern
hostname: mx1.example.com
smtp:
  listen: [":2525", "[::1]:2526"]
  max_size: 20MB
  command_timeout: 90s
roles: [mx, proxy]
directory:
  urls: ldap://127.0.0.1:389
  base: dc=example,dc=com
  password: geheim
trust:
  proxy: [192.0.2.0/24, 2001:db8::1]
pairs:
  - pair: pair1
    node: pair1-a
    lmtp: 10.0.0.1:24
proxy:
  plain_loopback: yes
retry:
  lifetime: 4d
  schedule: [1m, 5m]
`

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoadRelay(t *testing.T) {
	t.Setenv("POSTERN_SMTP_MAX_RECIPIENTS", "500")
	t.Setenv("POSTERN_SMTP_MAX_SIZE", "30MB")
	fs := pflag.NewFlagSet("relay", pflag.ContinueOnError)
	AddFlags[Relay](fs)
	if err := fs.Parse([]string{"--smtp.max_size=40MB", "--imap.listen=127.0.0.1:1143,127.0.0.2:1143"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load[Relay](write(t, relayYAML), fs)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, got, want any }{
		{"file", c.Node, "relay1"},
		{"list in file", c.SMTP.Listen, []string{":2525", "[::1]:2526"}},
		{"flag over environment over file", c.SMTP.MaxSize, Size(40 << 20)},
		{"environment over default", c.SMTP.MaxRecipients, 500},
		{"duration", c.SMTP.CommandTimeout, 90 * time.Second},
		{"days", c.Retry.Lifetime, 96 * time.Hour},
		{"durations", c.Retry.Schedule, []time.Duration{time.Minute, 5 * time.Minute}},
		{"default", c.SMTP.DataTimeout, 3 * time.Minute},
		{"default list", c.POP3.Listen, []string{":110"}},
		{"list from flag", c.IMAP.Listen, []string{"127.0.0.1:1143", "127.0.0.2:1143"}},
		{"word as list", c.Directory.URLs, []string{"ldap://127.0.0.1:389"}},
		{"networks", c.Trust.Proxy, Networks{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")}},
		{"objects", c.Pairs, []StaticNode{{Pair: "pair1", Node: "pair1-a", LMTP: "10.0.0.1:24"}}},
		{"yes", c.Proxy.PlainLoopback, true},
		{"relative file", c.TLS.Cert, "/var/lib/postern/tls/node.pem"},
		{"secret", c.Directory.Password.Reveal(), "geheim"},
		{"no file", c.Public.ClientCA, ""},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	if !c.Trust.Proxy.Contains(netip.MustParseAddr("::ffff:192.0.2.9")) || c.Trust.Proxy.Contains(netip.MustParseAddr("192.0.3.9")) {
		t.Error("Networks.Contains")
	}
}

func TestFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		add  string
		want []string
	}{
		"misspelt":          {"smpt:\n  listen: ':25'\n", []string{`:23: unknown option "smpt", did you mean "smtp"?`}},
		"misspelt inside":   {"queue:\n  max_byte: 1GB\n", []string{`:24: unknown option "queue.max_byte", did you mean "queue.max_bytes"?`}},
		"far from any":      {"frobnicate: 1\n", []string{`:23: unknown option "frobnicate"`}},
		"other tier":        {"groups: []\n", []string{`unknown option "groups", it belongs to: backend, witness`}},
		"several":           {"a1: 1\nb2: 2\n", []string{":23: ", ":24: "}},
		"size":              {"queue:\n  max_bytes: much\n", []string{`:24: queue.max_bytes: "much" is not a size`}},
		"negative size":     {"queue:\n  max_bytes: -1\n", []string{`"-1" is not a size`}},
		"duration":          {"accept:\n  pair_deadline: 5\n", []string{"5 is not a duration: write a unit"}},
		"word":              {"accept:\n  mode: lazy\n", []string{`:24: accept.mode: "lazy" is none of through, local`}},
		"too small":         {"outbound:\n  concurrency: 0\n", []string{"outbound.concurrency: must be at least 1"}},
		"too big":           {"outbound:\n  port: 70000\n", []string{"outbound.port: must be at most 65535"}},
		"host port":         {"admin:\n  listen: '25'\n", []string{`admin.listen: "25" is not host:port`}},
		"port":              {"admin:\n  listen: 'a:smtp'\n", []string{`has no port between`}},
		"bool":              {"outbound:\n  require_tls: perhaps\n", []string{`"perhaps" is neither yes nor no`}},
		"alias":             {"log: &x {level: info}\njournal: *x\n", []string{"aliases are not taken"}},
		"value for section": {"queue: 7\n", []string{":23: queue holds options, not a value"}},
		"twice":             {"node: relay2\n", []string{"already defined"}},
		"not YAML":          {"{[\n", []string{"yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, strings.TrimPrefix(relayYAML, "\n")+tt.add)
			text, _ := os.ReadFile(file)
			first := bytes.Count(text[:bytes.LastIndex(text, []byte(tt.add))], []byte("\n")) + 1
			_, err := Load[Relay](file, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range tt.want {
				w = strings.ReplaceAll(w, ":23:", fmt.Sprintf(":%d:", first))
				w = strings.ReplaceAll(w, ":24:", fmt.Sprintf(":%d:", first+1))
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\nwants %s", err, w)
				}
			}
		})
	}
	if _, err := Load[Relay](write(t, "node: x\n"), nil); err == nil || !strings.Contains(err.Error(), "cluster: must be given") || !strings.Contains(err.Error(), "directory.urls: must be given") {
		t.Errorf("options that are missing: %v", err)
	}
	_, err := Load[Relay](write(t, relayYAML+"admin:\n  listen: x\n"), nil)
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("the error holds a secret: %v", err)
	}
}

func TestLoadBackend(t *testing.T) {
	const text = `
node: pair1-a
cluster: east
dir: /d
raft: {listen: "127.0.0.1:8300"}
serve: {lmtp: "127.0.0.1:2400", imap: "127.0.0.1:2401", pop3: "127.0.0.1:2402"}
groups:
  - pair: pair1
    members:
      - {node: pair1-a, id: 000000000000000a, addr: "127.0.0.1:8300"}
      - {node: pair1-b, id: 000000000000000b, addr: "127.0.0.1:8301"}
      - {node: witness1, id: 000000000000000c, addr: "127.0.0.1:8302", witness: true}
`
	c, err := Load[Backend](write(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	g := c.Groups[0]
	if g.Dir != "/d/pair1" || len(g.Members) != 3 || !g.Members[2].Witness || g.Members[0].Witness {
		t.Errorf("group %+v", g)
	}
	for name, tt := range map[string]struct{ old, add, want string }{
		"inner key":      {"witness: true", "witnes: true", `"groups[0].members[2].witnes", did you mean`},
		"inner need":     {`node: witness1, `, ``, "groups[0].members[2].node: must be given"},
		"inner value":    {`"127.0.0.1:8301"`, `nowhere`, `groups[0].members[1].addr: "nowhere" is not host:port`},
		"bench outside":  {`node: pair1-a`, "bench: {lmtp: '10.0.0.1:24'}\nnode: pair1-a", "is not a loopback address"},
		"empty group":    {text[strings.Index(text, "  - pair"):], "  []\n", "groups: must be given"},
		"no members":     {text[strings.Index(text, "    members"):], "\n", "groups[0].members: must be given"},
		"option of peer": {"node: pair1-a\n", "node: pair1-a\nhostname: x\n", "it belongs to: relay"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load[Backend](write(t, strings.Replace(text, tt.old, tt.add, 1)), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v\nwants %s", err, tt.want)
			}
		})
	}
}

// TestTable holds the table and the structs together.
func TestTable(t *testing.T) {
	for tier, v := range map[Tier]any{TierRelay: Relay{}, TierBackend: Backend{}, TierWitness: Witness{}} {
		leaves := leavesOf(reflect.TypeOf(v), "")
		for _, name := range leaves {
			if find(name, tier) == nil {
				t.Errorf("%s: the field %s has no row in the table", tier, name)
			}
		}
		for i := range Table {
			if o := &Table[i]; o.Tier&tier != 0 && o.Type != Objects && !slices.Contains(leaves, o.Name) {
				t.Errorf("%s: the option %s has no field", tier, o.Name)
			}
		}
	}
	seen := map[string]bool{}
	for i := range Table {
		o := &Table[i]
		if seen[o.Name] {
			t.Errorf("%s stands twice in the table", o.Name)
		}
		seen[o.Name] = true
		if len(o.Help) < 10 || !strings.HasSuffix(o.Help, ".") || o.Type == "" || o.Tier == 0 || o.Tier.String() == "?" {
			t.Errorf("%s: help, type or tier is missing", o.Name)
		}
		if o.Need && o.Default != "" {
			t.Errorf("%s must be given and has a default", o.Name)
		}
		if o.Type == Int && o.Max == 0 && o.Min == 0 {
			t.Errorf("%s has no bounds", o.Name)
		}
		list, _, inside := strings.Cut(o.Name, "[]")
		switch {
		case inside && (o.Fixed != "" || o.Reload != find(list, o.Tier).Reload):
			t.Errorf("%s follows its list", o.Name)
		case !inside && o.Reload != (o.Fixed == ""):
			t.Errorf("%s follows a reload: %v; it does not, since %q", o.Name, o.Reload, o.Fixed)
		}
	}
}

// leavesOf names the options that the fields of a struct stand for.
func leavesOf(typ reflect.Type, prefix string) []string {
	var names []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Anonymous {
			names = append(names, leavesOf(f.Type, prefix)...)
			continue
		}
		name := prefix + key(&f)
		switch {
		case f.Type.Kind() == reflect.Struct:
			names = append(names, leavesOf(f.Type, name+".")...)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct && f.Type != reflect.TypeFor[Networks]():
			names = append(names, leavesOf(f.Type.Elem(), name+"[].")...)
		default:
			names = append(names, name)
		}
	}
	return names
}

func TestReload(t *testing.T) {
	file := write(t, relayYAML)
	c, err := Load[Relay](file, nil)
	if err != nil {
		t.Fatal(err)
	}
	live := NewLive(file, c)
	load := func(file string) (*Relay, error) { return Load[Relay](file, nil) }
	rewrite := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(strings.Replace(relayYAML, "mx1.", "mx9.", 1) + "log: {level: debug}\n")
	ch, err := live.Reload(load, nil)
	if err != nil || !slices.Equal(ch.Applied, []string{"log.level"}) || !slices.Equal(ch.Restart, []string{"hostname"}) {
		t.Errorf("change %+v, %v", ch, err)
	}
	if now := live.Current(); now.Log.Level != "debug" || now.Hostname != "mx1.example.com" {
		t.Errorf("in use: %s, %s", now.Log.Level, now.Hostname)
	}
	if c.Log.Level != "info" {
		t.Error("the old configuration was changed")
	}
	before := live.Current()
	rewrite("node: [")
	if _, err := live.Reload(load, nil); err == nil || live.Current() != before {
		t.Errorf("a broken file: %v", err)
	}
	rewrite(relayYAML)
	refusal := errors.New("no")
	if _, err := live.Reload(load, func(_, _ *Relay) error { return refusal }); !errors.Is(err, refusal) || live.Current() != before {
		t.Errorf("a refused change: %v", err)
	}
}

func TestSecret(t *testing.T) {
	c, err := Load[Relay](write(t, relayYAML), nil)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(c.Directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprintf("%v %+v %#v %s %q %x", c.Directory, c.Directory, c.Directory, c.Directory.Password, c.Directory.Password, c.Directory.Password),
		string(y),
		fmt.Sprint(Values(c)),
	} {
		if strings.Contains(s, "geheim") || strings.Contains(s, "67656865696d") {
			t.Errorf("secret shown: %s", s)
		}
		if !strings.Contains(s, stars) {
			t.Errorf("no stars: %s", s)
		}
	}
	pw := write(t, "aus der Datei\n")
	if s, err := SecretOf("x", pw); err != nil || s.Reveal() != "aus der Datei" {
		t.Errorf("SecretOf = %q, %v", s.Reveal(), err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "4096": 4096, "64KB": 64 << 10, "50 mb": 50 << 20, "2GB": 2 << 30, "1TB": 1 << 40} {
		if n, err := ParseSize(text); err != nil || n != want {
			t.Errorf("ParseSize(%q) = %d, %v", text, n, err)
		}
		if n, err := ParseSize(want.String()); err != nil || n != want {
			t.Errorf("%d prints as %s", want, want)
		}
	}
	for _, text := range []string{"", "MB", "1.5MB", "-1KB", "9999999999999TB", "1 2"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d", text, n)
		}
	}
}

// TestReference holds the page and the table together.
func TestReference(t *testing.T) {
	var b bytes.Buffer
	if err := Reference(&b); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("options.md", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile("options.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, b.Bytes()) {
		t.Error("options.md is out of date: go test ./shared/config -update")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(relayYAML)
	f.Add("node: a\ncluster: b\ndir: /c\nhostname: d\ndirectory: {base: o=e}\npairs: [{pair: f, node: g, lmtp: \"h:1\"}]\n")
	f.Add("a: &x [1]\nb: *x\n")
	f.Add("pairs: [{pair: 1}, 2]\nsmtp: {listen: {a: b}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := Parse[Relay]("f", []byte(text), NoEnv, nil); err == nil {
			if d := Compare(c, c); len(d) > 0 || len(Settings(c)) == 0 {
				t.Errorf("differs from itself: %v", d)
			}
		}
		_, _ = ParseSize(text)
		_, _ = parseDuration(text)
	})
}

package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

const backendYAML = `node: b1
cluster: east
dir: /srv/b1
raft: {listen: "127.0.0.1:1"}
serve: {lmtp: "127.0.0.1:2", imap: "127.0.0.1:3", pop3: "127.0.0.1:4"}
bench:
  password: geheim
log:
  level:
groups:
  - pair: p1
    members:
      - {node: b1, id: aa, addr: "h:1"}
      - node: w1
        id: bb
        addr: "h:2"
        witness: yes
`

func settingsOf[T Node](c *T) map[string]Setting {
	m := map[string]Setting{}
	for _, s := range Settings(c) {
		m[s.Name] = s
	}
	return m
}

func TestSettings(t *testing.T) {
	t.Setenv("POSTERN_MAIL_MAX_SIZE", "70MB")
	t.Setenv("POSTERN_LOG_FORMAT", "") // as if it were not there
	t.Setenv("POSTERN_UPKEEP_RATE", "1MB")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags[Backend](flags)
	if err := flags.Parse([]string{"--upkeep.rate=2MB"}); err != nil {
		t.Fatal(err)
	}
	c, err := Parse[Backend]("b.yaml", []byte(backendYAML), Env, flags)
	if err != nil {
		t.Fatal(err)
	}
	got := settingsOf(c)
	for _, want := range []Setting{
		{"node", "b1", "b.yaml:1", false},
		{"raft.listen", "127.0.0.1:1", "b.yaml:4", false},
		{"bench.password", "***", "b.yaml:7", false},
		{"log.level", "info", "default", true}, // the line has no value
		{"log.format", "json", "default", true},
		{"mail.max_size", "70MB", "environment POSTERN_MAIL_MAX_SIZE", false},
		{"upkeep.rate", "2MB", "flag --upkeep.rate", true},
		{"upkeep.compact_every", "24h", "default", true},
		{"tls.cert", "/srv/b1/tls/node.pem", "default", false},
		{"groups[0].pair", "p1", "b.yaml:11", false},
		{"groups[0].dir", "/srv/b1/p1", "default", false},
		{"groups[0].members[0].id", "aa", "b.yaml:13", false},
		{"groups[0].members[0].witness", "no", "default", false},
		{"groups[0].members[1].witness", "yes", "b.yaml:17", false},
	} {
		if got[want.Name] != want {
			t.Errorf("%+v, want %+v", got[want.Name], want)
		}
	}
	if s := fmt.Sprintf("%+v", Settings(c)); strings.Contains(s, "geheim") {
		t.Error("a secret is shown")
	}
	if c, err = Parse[Backend]("b.yaml", []byte(backendYAML), NoEnv, nil); err != nil {
		t.Fatal(err)
	}
	if s := settingsOf(c)["mail.max_size"]; s.Source != SourceDefault {
		t.Errorf("without the environment: %+v", s)
	}
}

func TestCompare(t *testing.T) {
	parse := func(text string) *Backend {
		t.Helper()
		c, err := Parse[Backend]("b.yaml", []byte(text), NoEnv, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := parse(backendYAML)
	for name, tt := range map[string]struct {
		from, to string
		want     []Difference
	}{
		"nothing":           {"node: b1", "node: b1 # a comment", nil},
		"a default written": {"  level:", "  level: info", nil},
		"reload":            {"  level:", "  level: debug", []Difference{{"log.level", "info", "debug", "default", "b.yaml:9", true}}},
		"secret":            {"geheim", "anders", []Difference{{"bench.password", "***", "***", "b.yaml:7", "b.yaml:7", false}}},
		"inside an object":  {"id: bb", "id: cc", []Difference{{"groups[0].members[1].id", "bb", "cc", "b.yaml:15", "b.yaml:15", false}}},
		"one object less": {"      - {node: b1, id: aa, addr: \"h:1\"}\n", "", []Difference{
			{"groups[0].members[0].node", "b1", "w1", "b.yaml:13", "b.yaml:13", false},
			{"groups[0].members[0].id", "aa", "bb", "b.yaml:13", "b.yaml:14", false},
			{"groups[0].members[0].addr", "h:1", "h:2", "b.yaml:13", "b.yaml:15", false},
			{"groups[0].members[0].witness", "no", "yes", "default", "b.yaml:16", false},
			{"groups[0].members[1].node", "w1", "", "b.yaml:14", "", false},
			{"groups[0].members[1].id", "bb", "", "b.yaml:15", "", false},
			{"groups[0].members[1].addr", "h:2", "", "b.yaml:16", "", false},
			{"groups[0].members[1].witness", "yes", "", "b.yaml:17", "", false},
		}},
	} {
		if got := Compare(old, parse(strings.Replace(backendYAML, tt.from, tt.to, 1))); !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n%+v, want\n%+v", name, got, tt.want)
		}
	}
}

// TestReloadSources: after a reload, an option that waits for a restart has its
// old value and says where that came from; flags stay what they are.
func TestReloadSources(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags[Backend](flags)
	if err := flags.Parse([]string{"--runtime.gc_percent=150"}); err != nil {
		t.Fatal(err)
	}
	c, err := Parse[Backend]("old.yaml", []byte(backendYAML), NoEnv, flags)
	if err != nil {
		t.Fatal(err)
	}
	live := NewLive("", c)
	next := "# one line more\n" + strings.NewReplacer("node: b1\n", "node: b2\n", "id: bb", "id: cc", "level:", "level: debug").Replace(backendYAML)
	ch, err := live.Reload(func(string) (*Backend, error) {
		return Parse[Backend]("new.yaml", []byte(next), NoEnv, Flags(c))
	}, nil)
	if err != nil || !slices.Equal(ch.Applied, []string{"log.level"}) || !slices.Equal(ch.Restart, []string{"node", "groups"}) {
		t.Errorf("%+v, %v", ch, err)
	}
	got := settingsOf(live.Current())
	for _, want := range []Setting{
		{"node", "b1", "old.yaml:1", false},
		{"cluster", "east", "new.yaml:3", false},
		{"log.level", "debug", "new.yaml:10", true},
		{"runtime.gc_percent", "150", "flag --runtime.gc_percent", true},
		{"groups[0].members[1].id", "bb", "old.yaml:15", false},
	} {
		if got[want.Name] != want {
			t.Errorf("%+v, want %+v", got[want.Name], want)
		}
	}
}

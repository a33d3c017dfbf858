package schema_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/schema"
	"github.com/postern-mail/postern/shared/peertest"
)

var update = flag.Bool("update", false, "write the files in deploy/openldap")

// TestDeployed: what is handed out is what this package has.
func TestDeployed(t *testing.T) {
	for name, want := range map[string]string{"postern.schema": schema.OpenLDAP, "postern.ldif": schema.LDIF()} {
		path := filepath.Join("../../../deploy/openldap", name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s is not what package schema has (%v); run go test ./shared/directory/schema -update", path, err)
		}
	}
}

// names are the names of definitions, in lower case.
func names(defs []string) []string {
	var out []string
	for _, def := range defs {
		words := strings.Fields(def)
		i := slices.Index(words, "NAME")
		if i < 0 {
			continue
		}
		for _, w := range words[i+1:] {
			if w == "(" {
				continue
			}
			name, ok := strings.CutPrefix(w, "'")
			if !ok {
				break
			}
			out = append(out, strings.ToLower(strings.TrimSuffix(name, "'")))
		}
	}
	return out
}

// TestComplete: every attribute and class that a preset reads is defined, every
// class names defined attributes only, and nothing is defined twice.
func TestComplete(t *testing.T) {
	types, classes := schema.Definitions()
	attrs, kinds := names(types), names(classes)
	for _, list := range [][]string{attrs, kinds} {
		sorted := slices.Clone(list)
		slices.Sort(sorted)
		for i := 1; i < len(sorted); i++ {
			if sorted[i] == sorted[i-1] {
				t.Errorf("%s is defined twice", sorted[i])
			}
		}
	}
	oids := map[string]string{}
	for _, def := range slices.Concat(types, classes) {
		words := strings.Fields(def)
		if words[0] != "(" || words[len(words)-1] != ")" {
			t.Errorf("not a definition: %s", def)
			continue
		}
		if other := oids[words[1]]; other != "" {
			t.Errorf("%s is used twice: %s and %s", words[1], other, def)
		}
		oids[words[1]] = def
	}
	for _, preset := range directory.Presets {
		s, err := directory.Preset(preset)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range slices.Concat(s.EntryAttributes(), s.DomainAttributes(), []string{s.VanityDomain}) {
			if a != "" && !slices.Contains(attrs, strings.ToLower(a)) {
				t.Errorf("%s: attribute %s is not defined", preset, a)
			}
		}
		for _, c := range slices.Concat(slices.Concat(s.UserClasses...), slices.Concat(s.GroupClasses...), []string{s.DomainClass}) {
			if c != "" && !slices.Contains(kinds, strings.ToLower(c)) {
				t.Errorf("%s: class %s is not defined", preset, c)
			}
		}
	}
	for _, def := range classes {
		for _, part := range []string{"MUST", "MAY"} {
			_, list, ok := strings.Cut(def, " "+part+" ")
			if !ok {
				continue
			}
			words := strings.Fields(list)
			if words[0] != "(" {
				words = words[:1]
			}
			for _, w := range words {
				if w == ")" {
					break
				}
				if w != "(" && w != "$" && !slices.Contains(attrs, strings.ToLower(w)) {
					t.Errorf("class %s: attribute %s is not defined", strings.Fields(def)[3], w)
				}
			}
		}
	}
	for _, list := range [][]string{schema.Syntaxes(), schema.MatchingRules()} {
		if len(list) < 8 {
			t.Errorf("only %q", list)
		}
	}
}

// TestLoads: OpenLDAP takes both files.
func TestLoads(t *testing.T) {
	tools := peertest.Programs(t, "slaptest", "slapadd")
	slaptest, slapadd := tools[0], tools[1]
	if _, err := os.Stat("/etc/ldap/schema/core.schema"); err != nil {
		peertest.Lacks(t, "OpenLDAP's schema files are not installed")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "slapd.d")
	if err := os.Mkdir(config, 0o700); err != nil {
		t.Fatal(err)
	}
	deployed, err := filepath.Abs("../../../deploy/openldap")
	if err != nil {
		t.Fatal(err)
	}
	var conf strings.Builder
	for _, name := range []string{"core", "cosine", "inetorgperson", "misc", "dyngroup"} {
		conf.WriteString("include /etc/ldap/schema/" + name + ".schema\n")
	}
	run := func(conf string, words ...string) {
		t.Helper()
		path := filepath.Join(dir, "slapd.conf")
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", words, err, out)
		}
	}
	run(conf.String()+"include "+deployed+"/postern.schema\n", slaptest, "-u", "-f", filepath.Join(dir, "slapd.conf"))
	run(conf.String(), slaptest, "-f", filepath.Join(dir, "slapd.conf"), "-F", config)
	run(conf.String(), slapadd, "-n", "0", "-F", config, "-l", deployed+"/postern.ldif")
}

/*
Package archtest keeps the rules of the house: who may import whom, where each
outside module lives, and that every package says what it is for. It reads
import lines itself, so a cached test result never hides a new violation.
*/
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/postern-mail/postern/"

// tiers says which of our packages a package may import, by path prefix.
var tiers = map[string][]string{
	"shared":      {"shared"},
	"ha":          {"ha", "shared/admin", "shared/fsx", "shared/metrics", "shared/tlsconf"},
	"ha/drill":    {"ha", "shared"},
	"relay":       {"relay", "ha/route", "shared"},
	"backend":     {"backend", "shared"},
	"cmd":         {"cmd", "relay", "backend", "ha", "shared"},
	"integration": {"integration", "ha", "shared"},
	// All tiers in one process, on simulated network, disks and clock.
	"integration/sim": {"integration", "relay", "backend", "ha", "shared"},
}

// homes says where an outside module may be imported; tests may import more,
// see testOnly. A module that is not listed may be imported anywhere.
var homes = map[string][]string{
	"github.com/spf13/viper":            {"shared/config"},
	"github.com/go-ldap/":               {"shared/directory/ldap", "shared/directory/embedded"},
	"github.com/go-asn1-ber/":           {"shared/directory/embedded"},
	"github.com/miekg/dns":              {"shared/dns"},
	"github.com/hashicorp/raft":         {"ha/replica", "ha/witness", "ha/seglog"},
	"github.com/hashicorp/memberlist":   {"ha/gossip"},
	"github.com/emersion/go-smtp":       {"relay/deliver/smtp", "integration"},
	"github.com/emersion/go-imap":       {"backend/imapd", "ha/drill", "integration"},
	"github.com/emersion/go-message":    {},
	"github.com/d--j/go-milter":         {"integration"},
	"github.com/cockroachdb/pebble":     {"backend/store"},
	"github.com/pires/go-proxyproto":    {"shared/smtp", "relay/dispatcher"},
	"github.com/spf13/cobra":            {"cmd/postern"},
	"github.com/vbauerster/mpb":         {"cmd/postern"},
	"github.com/prometheus/":            {"shared/metrics", "cmd"},
	"go.opentelemetry.io/":              {"shared/tracing"},
	"github.com/rogpeppe/go-internal":   {"integration"},
	"github.com/hashicorp/hcl/":         {"integration"},
	"go.uber.org/goleak":                {},
	"pgregory.net/rapid":                {},
	"github.com/anishathalye/porcupine": {"integration/history"},
}

// testOnly are modules that the tests of any package may use.
var testOnly = []string{
	"go.uber.org/goleak", "pgregory.net/rapid", "github.com/d--j/go-milter",
	"github.com/emersion/go-message", "github.com/emersion/go-smtp", "github.com/emersion/go-imap",
	"github.com/cockroachdb/pebble", "github.com/prometheus/", "go.opentelemetry.io/",
}

type file struct {
	dir  string // package directory relative to the module
	name string
	ast  *ast.File
}

func load(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	err = fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, ".go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, p), nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, file{path.Dir(p), d.Name(), f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d Go files found below %s", len(files), root)
	}
	return files
}

// longest returns the entry of m whose key is the longest prefix of dir.
func longest(m map[string][]string, dir string) (rule []string, ok bool) {
	best := -1
	for k, v := range m {
		if (dir == k || strings.HasPrefix(dir, k+"/")) && len(k) > best {
			best, rule, ok = len(k), v, true
		}
	}
	return rule, ok
}

func under(dir string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return dir == p || strings.HasPrefix(dir, p+"/") })
}

func TestImports(t *testing.T) {
	for _, f := range load(t) {
		allowed, known := longest(tiers, f.dir)
		if !known {
			t.Errorf("%s/%s: no rule says what this directory may import", f.dir, f.name)
			continue
		}
		test := strings.HasSuffix(f.name, "_test.go")
		for _, spec := range f.ast.Imports {
			p, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(p, module); ok {
				if !under(own, allowed) {
					t.Errorf("%s/%s imports %s: a package in %s may import only %v", f.dir, f.name, own, f.dir, allowed)
				}
				continue
			}
			for mod, home := range homes {
				if !strings.HasPrefix(p, mod) || under(f.dir, home) {
					continue
				}
				if test && slices.ContainsFunc(testOnly, func(m string) bool { return strings.HasPrefix(p, m) }) {
					continue
				}
				t.Errorf("%s/%s imports %s, whose home is %v", f.dir, f.name, p, home)
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	doc := map[string]bool{}
	for _, f := range load(t) {
		text := f.ast.Doc.Text()
		doc[f.dir] = doc[f.dir] || strings.HasPrefix(text, "Package ") || strings.HasPrefix(text, "Command ") || f.ast.Name.Name == "main" && text != ""
	}
	for dir, ok := range doc {
		if !ok {
			t.Errorf("%s: no package doc", dir)
		}
	}
}

// TestWitnessLinksNoMail follows the imports of cmd/postern-witness: a process
// that cannot hold a mailbox has no code to open one.
func TestWitnessLinksNoMail(t *testing.T) {
	imports := map[string][]string{}
	for _, f := range load(t) {
		if strings.HasSuffix(f.name, "_test.go") {
			continue
		}
		for _, spec := range f.ast.Imports {
			p, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(p, module); ok {
				imports[f.dir] = append(imports[f.dir], own)
			}
		}
	}
	seen := map[string]bool{}
	var walk func(dir, via string)
	walk = func(dir, via string) {
		if seen[dir] {
			return
		}
		seen[dir] = true
		for _, bad := range []string{"backend", "relay", "shared/smtp", "shared/imapwire", "shared/message", "shared/mail", "shared/directory"} {
			if under(dir, []string{bad}) {
				t.Errorf("postern-witness links %s through %s", dir, via)
			}
		}
		for _, next := range imports[dir] {
			walk(next, via+" > "+dir)
		}
	}
	root := "cmd/postern-witness"
	if _, err := os.Stat("../../" + root); err != nil {
		// The program is not written yet: look at all that it may be made of.
		for dir := range imports {
			if strings.HasPrefix(dir, "ha/") {
				walk(dir, "")
			}
		}
		return
	}
	if len(imports[root]) == 0 {
		t.Fatalf("%s imports nothing of ours: was it moved?", root)
	}
	walk(root, "")
}

package directory

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// suites are the tests that DESIGN.md calls by the name of their suite.
const suites = "shared/directory/dirtest"

// testSources are the sources of the tests, by the directory that they are in.
func testSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
			return err
		case strings.HasSuffix(p, "_test.go"), path.Ext(p) == ".go" && path.Dir(p) == suites:
			src, err := fs.ReadFile(root, p)
			sources[path.Dir(p)] += string(src)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

var (
	quoted   = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`^(?:((?:Test|Fuzz|Benchmark)[A-Za-z0-9]+)(?:/(.+))?|(Sun|Run)/([A-Za-z]+))$`)
)

// named is what a cell names: tests, and the directories that they may be in.
func named(cell string, sources map[string]string, usual string) (tests, dirs []string) {
	for dir := range sources {
		if dir == usual || usual == "shared/directory" && strings.HasPrefix(dir, usual+"/") {
			dirs = append(dirs, dir)
		}
	}
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		if testName.MatchString(m[1]) {
			tests = append(tests, m[1])
			continue
		}
		for dir := range sources {
			if dir == m[1] || strings.HasSuffix(dir, "/"+m[1]) {
				dirs = append(dirs, dir)
			}
		}
	}
	return tests, dirs
}

// has reports whether a test is in one of the directories, and its subtest,
// whose name may be a key of a table.
func has(test string, dirs []string, sources map[string]string) bool {
	m := testName.FindStringSubmatch(test)
	sub := strings.ReplaceAll(m[2], "_", " ")
	if m[3] != "" {
		return strings.Contains(sources[suites], `t.Run("`+m[4]+`"`)
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return strings.Contains(sources[dir], "func "+m[1]+"(") && (sub == "" || strings.Contains(sources[dir], `"`+sub+`"`))
	})
}

// TestDesign: the tests that DESIGN.md names for the lines of the specification
// are where it says, each line has one, and so has every paragraph that names
// one.
func TestDesign(t *testing.T) {
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	sources := testSources(t)
	usual, rows, names := suites, 0, 0
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "## Users, groups, forwarding"):
			usual = "relay/expand"
		case strings.HasPrefix(line, "## "):
			usual = "shared/directory"
		}
		cell := line
		row := strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "|---") && !strings.HasPrefix(line, "| Where") && !strings.HasPrefix(line, "| Feature")
		if row {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
			cell = cells[len(cells)-1]
			rows++
		}
		tests, dirs := named(cell, sources, usual)
		names += len(tests)
		if !row { // prose may speak of any
			dirs = nil
			for dir := range sources {
				dirs = append(dirs, dir)
			}
		} else if len(tests) == 0 && !strings.Contains(cell, " as ") && !strings.HasPrefix(cell, "as ") && !strings.Contains(cell, " on three ") {
			t.Errorf("no test in %s", line)
		}
		for _, test := range tests {
			if test != "Sun/X" && test != "Run/X" && !has(test, dirs, sources) {
				t.Errorf("%s is not there: %s", test, line)
			}
		}
	}
	if rows < 90 || names < 200 {
		t.Errorf("%d rows and %d names", rows, names)
	}
}

package chaos

import (
	"debug/buildinfo"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/integration/cluster"
)

var plantedRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|")

// TestPlantedApart: each planted bug is listed, in a small file of its own that is
// built with its tag only, and the files that it replaces are the only ones that
// know of the tag.
func TestPlantedApart(t *testing.T) {
	doc, err := os.ReadFile("PLANTED.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]int{}
	for _, m := range plantedRow.FindAllStringSubmatch(string(doc), -1) {
		listed[m[1]] = 0
	}
	if len(listed) < 10 {
		t.Errorf("%d bugs are listed", len(listed))
	}
	release := build.Default
	release.BuildTags = nil
	err = fs.WalkDir(os.DirFS("../.."), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		path := filepath.Join("../..", p)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, planted := strings.CutPrefix(strings.TrimSuffix(filepath.Base(p), ".go"), "planted_")
		tag := "//go:build planted_" + name + "\n"
		built, err := release.MatchFile(filepath.Dir(path), filepath.Base(path))
		switch {
		case err != nil:
			return err
		case planted && (!strings.HasPrefix(string(text), tag) || built):
			t.Errorf("%s does not begin with %q, or is built without it", p, tag)
		case planted && strings.Count(string(text), "\n") > 50:
			t.Errorf("%s is not small", p)
		case planted:
			if _, ok := listed[name]; !ok {
				t.Errorf("%s is not listed in PLANTED.md", p)
			}
			listed[name]++
		case strings.Contains(strings.TrimPrefix(string(text), "//go:build !planted_"), "planted_"):
			t.Errorf("%s knows of planted bugs", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range listed {
		if files == 0 {
			t.Errorf("%s is listed and not planted", name)
		}
	}
}

// TestPlantedNotBuilt looks at the programs as they are built for a release.
func TestPlantedNotBuilt(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: builds the programs")
	}
	programs, err := filepath.Glob(filepath.Join(cluster.Binaries(t), "postern*"))
	if err != nil || len(programs) < 4 {
		t.Fatalf("programs %v, %v", programs, err)
	}
	for _, name := range programs {
		info, err := buildinfo.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range info.Settings {
			if s.Key == "-tags" && strings.Contains(s.Value, "planted") {
				t.Errorf("%s is built with %s", name, s.Value)
			}
		}
	}
	for _, script := range []string{"../../Makefile", "../../deploy/packages/build"} {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "planted_") {
			t.Errorf("%s builds with a planted bug", script)
		}
	}
}

package directory

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDesign: the tests that DESIGN.md names are there.
func TestDesign(t *testing.T) {
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	root := os.DirFS("../..")
	err = fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, "_test.go") && !strings.HasPrefix(p, "shared/directory/dirtest/") {
			return err
		}
		src, err := fs.ReadFile(root, p)
		sources.Write(src)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for _, m := range regexp.MustCompile("`(?:((?:Test|Fuzz|Benchmark)[A-Za-z0-9]+)|(Sun|Run)/([A-Za-z]+))").FindAllStringSubmatch(string(text), -1) {
		names++
		want := "func " + m[1] + "("
		if m[1] == "" {
			want = "t.Run(\"" + m[3] + "\""
		}
		if m[3] != "X" && !strings.Contains(sources.String(), want) {
			t.Errorf("DESIGN.md names %s, which is not there", m[0])
		}
	}
	if names < 50 {
		t.Errorf("only %d tests are named", names)
	}
}

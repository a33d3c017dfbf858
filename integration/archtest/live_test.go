package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/config"
)

// TestLive: of the options that only backends and witnesses have, those that follow
// a reload are the ones that they read from the configuration in use, and no others.
// A relay's parts are made anew, which its own test compares with the table.
func TestLive(t *testing.T) {
	var read, said []string
	for _, dir := range []string{"postern-backend", "postern-witness"} {
		files, err := filepath.Glob(filepath.Join("../../cmd", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`Live\.Current\(\)\.(\w+\.\w+)`).FindAllSubmatch(text, -1) {
				read = append(read, strings.ToLower(string(m[1])))
			}
		}
	}
	for i := range config.Table {
		if o := &config.Table[i]; o.Reload && o.Tier&config.TierRelay == 0 {
			said = append(said, strings.ReplaceAll(o.Name, "_", ""))
		}
	}
	slices.Sort(read)
	slices.Sort(said)
	if read = slices.Compact(read); !slices.Equal(read, said) {
		t.Errorf("the daemons read %q from the configuration in use, the table says %q", read, said)
	}
}

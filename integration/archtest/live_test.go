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

// TestLive: of the options that only witnesses have, those that follow a reload are
// the ones that they read from the configuration in use, and no others. The parts of
// relays and backends are told anew, which tests of theirs compare with the table.
func TestLive(t *testing.T) {
	var read, said []string
	files, err := filepath.Glob("../../cmd/postern-witness/*.go")
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
	for i := range config.Table {
		if o := &config.Table[i]; o.Reload && o.Tier == config.TierWitness {
			said = append(said, strings.ReplaceAll(o.Name, "_", ""))
		}
	}
	slices.Sort(read)
	slices.Sort(said)
	if read = slices.Compact(read); len(read) == 0 || !slices.Equal(read, said) {
		t.Errorf("witnesses read %q from the configuration in use, the table says %q", read, said)
	}
}

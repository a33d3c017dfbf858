package upgrade

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/shared/peertest"
)

// previous is the commit that the release before was made from. A new release
// moves it.
const previous = "a175d750f9214d43806f51b1f292a24d8251eadc"

var old struct {
	once sync.Once
	dir  string
	skip string
	err  error
}

// previousPrograms builds the programs of the release before, once, and returns
// their folder.
func previousPrograms(t *testing.T) string {
	t.Helper()
	old.once.Do(buildPrevious)
	if old.skip != "" {
		peertest.Lacks(t, "%s", old.skip)
	}
	if old.err != nil {
		t.Fatal(old.err)
	}
	return filepath.Join(old.dir, "bin")
}

func buildPrevious() {
	if out, err := exec.Command("git", "cat-file", "-e", previous+"^{commit}").CombinedOutput(); err != nil {
		old.skip = fmt.Sprintf("the history does not hold %.7s, the release before: %v %s", previous, err, strings.TrimSpace(string(out)))
		return
	}
	if old.dir, old.err = os.MkdirTemp("", "postern-previous-"); old.err != nil {
		return
	}
	src := filepath.Join(old.dir, "src")
	old.err = os.Mkdir(src, 0o700)
	run := func(dir, command string) {
		if old.err != nil {
			return
		}
		c := exec.Command("sh", "-ec", command, "sh", previous, src, filepath.Join(old.dir, "bin")+"/")
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			old.err = fmt.Errorf("%s: %w\n%s", command, err, out)
		}
	}
	top, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		old.err = err
		return
	}
	run(strings.TrimSpace(string(top)), `git archive --output "$2.tar" "$1"; tar -x -f "$2.tar" -C "$2"`)
	run(src, `go build -trimpath -buildvcs=false -o "$3" ./cmd/...`)
}

func removePrevious() {
	if old.dir != "" {
		os.RemoveAll(old.dir)
	}
}

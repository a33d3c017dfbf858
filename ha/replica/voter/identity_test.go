package voter

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/fsx"
)

// TestRaise: a directory goes up one level and never down, keeps whose it is,
// and from level 2 on has no blank by which the release before would find a pair
// and an id.
func TestRaise(t *testing.T) {
	dir := t.TempDir()
	if err := WriteID(fsx.OS, dir, "pair1", "abc"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		raise, want int
		err         error
	}{{1, 1, nil}, {2, 2, nil}, {1, 2, nil}, {Format + 1, 2, ErrFormat}} {
		if err := Raise(fsx.OS, dir, step.raise); !errors.Is(err, step.err) {
			t.Errorf("to %d: %v", step.raise, err)
		}
		level, err := ReadFormat(fsx.OS, dir)
		pair, id, ierr := ReadID(fsx.OS, dir)
		if err != nil || ierr != nil || level != step.want || pair != "pair1" || id != "abc" {
			t.Errorf("to %d: format %d of %s %s, %v, %v", step.raise, level, pair, id, err, ierr)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, idName))
	if err != nil || strings.Contains(string(data), " ") {
		t.Errorf("%q, %v", data, err)
	}
}

// FuzzID: a file is refused with one of two errors, or means what is written
// for it.
func FuzzID(f *testing.F) {
	f.Add([]byte("pair1 abc\n"))
	f.Add([]byte(`{"format":2,"pair":"pair1","id":"abc","note":""}`))
	f.Add([]byte(`{"format":3,"pair":"pair1","id":"abc"}`))
	f.Add([]byte("pair1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := parseID("d", data)
		if err != nil {
			if !errors.Is(err, ErrIdentity) && !errors.Is(err, ErrFormat) {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := i.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseID("d", again)
		if i.Note = back.Note; err != nil || back != i {
			t.Errorf("%+v is written as %q: %+v, %v", i, again, back, err)
		}
	})
}

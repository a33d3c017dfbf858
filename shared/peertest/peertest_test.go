package peertest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// told is a test that says how it ended.
type told struct {
	testing.TB
	how string
}

func (t *told) Helper() {}

func (t *told) Skip(args ...any) {
	t.how = "skipped: " + fmt.Sprint(args...)
	runtime.Goexit()
}

func (t *told) Fatal(args ...any) {
	t.how = "failed: " + fmt.Sprint(args...)
	runtime.Goexit()
}

// TestPrograms: a test without its peer is left out, and fails where every peer has
// to be; the same for messages.
func TestPrograms(t *testing.T) {
	t.Setenv("POSTERN_CORPUS", t.TempDir())
	for ci, want := range map[string]string{"": "skipped: SKIP: ", "1": "failed: "} {
		t.Setenv("POSTERN_CI", ci)
		for why, f := range map[string]func(t testing.TB){
			"no-such-slapd is not installed":                            func(t testing.TB) { Programs(t, "go", "no-such-slapd") },
			"0 messages in " + os.Getenv("POSTERN_CORPUS") + ", want 1": func(t testing.TB) { Corpus(t, 1) },
		} {
			one := &told{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				f(one)
			}()
			<-done
			if !strings.HasPrefix(one.how, want+why) {
				t.Errorf("with POSTERN_CI=%q: %q, want %q", ci, one.how, want+why)
			}
		}
	}
	if paths := Programs(t, "go"); len(paths) != 1 || paths[0] == "" {
		t.Errorf("%q", paths)
	}
}

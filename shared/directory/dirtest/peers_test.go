package dirtest

import (
	"fmt"
	"runtime"
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

// TestNeeds: a test without its peer is left out, and fails where every peer
// has to be.
func TestNeeds(t *testing.T) {
	for ci, want := range map[string]string{
		"":  "skipped: SKIP: no-such-slapd not installed",
		"1": "failed: no-such-slapd not installed",
	} {
		t.Setenv("POSTERN_CI", ci)
		for name, f := range map[string]func(t testing.TB){
			"Needs": func(t testing.TB) { Needs(t, "go", "no-such-slapd") },
			"find":  func(t testing.TB) { find(t, "no-such-slapd") },
		} {
			one := &told{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				f(one)
			}()
			<-done
			if one.how != want {
				t.Errorf("%s with POSTERN_CI=%q: %q, want %q", name, ci, one.how, want)
			}
		}
	}
	if paths := Needs(t, "go"); len(paths) != 1 || paths[0] == "" {
		t.Errorf("%q", paths)
	}
}

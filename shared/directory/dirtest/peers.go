package dirtest

import (
	"os"
	"os/exec"
	"testing"
)

// Skip leaves a test out for want of a peer, except where every peer has to be:
// with POSTERN_CI set it fails.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("POSTERN_CI") != "" {
		t.Fatal(why)
	}
	t.Skip("SKIP: " + why)
}

// Needs finds programs, and skips the test without one of them.
func Needs(t testing.TB, names ...string) (paths []string) {
	t.Helper()
	for _, name := range names {
		found := ""
		for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/", "/usr/libexec/", "/usr/lib/openldap/"} {
			if path, err := exec.LookPath(dir + name); err == nil {
				found = path
				break
			}
		}
		if found == "" {
			Skip(t, name+" not installed")
		}
		paths = append(paths, found)
	}
	return paths
}

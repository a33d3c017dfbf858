/*
Package peertest finds what tests need from outside the project: programs that
they talk to, and real messages; and it reads what tests of two tiers compare: what
a filter of mail is told.

A test without what it needs is left out and says so, SKIP and the reason; where
POSTERN_CI is set, which has everything, it fails. Package peertest starts nothing.
*/
package peertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Lacks leaves a test out for want of something, or fails where nothing is to be
// left out.
func Lacks(t testing.TB, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	if os.Getenv("POSTERN_CI") != "" {
		t.Fatal(why + ", and CI must not skip")
	}
	t.Skip("SKIP: " + why)
}

// Programs finds programs, also outside of PATH where Debian has servers.
func Programs(t testing.TB, names ...string) (paths []string) {
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
			Lacks(t, "%s is not installed", name)
		}
		paths = append(paths, found)
	}
	return paths
}

// Root needs what only root may do.
func Root(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacks(t, "%s needs root", what)
	}
}

// Corpus lists the files of real messages, in order: those beside the project, or
// below POSTERN_CORPUS. There are n at least.
func Corpus(t testing.TB, n int) (files []string) {
	t.Helper()
	dir := os.Getenv("POSTERN_CORPUS")
	if dir == "" {
		root, err := filepath.Abs(".")
		for err == nil && root != "/" {
			if _, missing := os.Stat(filepath.Join(root, "go.mod")); missing == nil {
				break
			}
			root = filepath.Dir(root)
		}
		dir = filepath.Join(filepath.Dir(root), "shared", "corpus")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.eml"))
	if err != nil || len(files) < n {
		Lacks(t, "%d messages in %s, want %d", len(files), dir, n)
	}
	slices.Sort(files)
	return files
}

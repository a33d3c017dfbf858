package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	removeReleases()
	os.Exit(code)
}

// tree is the folder with modules and examples.
const tree = "../../terraform"

// programs are the two that read our files, in the order of preference.
var programs = []string{"terraform", "tofu"}

// installed lists those of them that are there. With neither the test is skipped;
// CI has one.
func installed(t *testing.T) (have []string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			have = append(have, p)
		}
	}
	if len(have) == 0 {
		peertest.Lacks(t, "neither terraform nor tofu is installed")
	}
	return have
}

// both runs f with each of the two programs; one that is not installed is skipped.
func both(t *testing.T, f func(t *testing.T, program string)) {
	have := installed(t)
	for _, p := range programs {
		t.Run(p, func(t *testing.T) {
			if !slices.Contains(have, p) {
				t.Skipf("SKIP: %s is not installed", p)
			}
			f(t, p)
		})
	}
}

// work is a copy of the tree, so that a run leaves nothing in ours.
func work(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "terraform")
	if err := os.CopyFS(dir, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	// What somebody's own run has left is no part of it.
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && (d.Name() == ".terraform" || strings.HasPrefix(d.Name(), "terraform.tfstate") || d.Name() == ".terraform.lock.hcl" || strings.HasSuffix(d.Name(), ".auto.tfvars")) {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			if d.IsDir() {
				return filepath.SkipDir
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// result is the end of a run of a program.
type result struct {
	out, said string
	status    int
}

// run runs a program in a folder, away from anybody's settings.
func run(ctx context.Context, dir, program string, env []string, args ...string) (result, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "TZ=UTC"}
	cmd.Env = append(cmd.Env, env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	err := cmd.Run()
	r := result{out.String(), said.String(), cmd.ProcessState.ExitCode()}
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", program, strings.Join(args, " "), err, r.out, r.said)
	}
	return r, err
}

// must runs a program that has to succeed.
func must(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	r, err := run(t.Context(), dir, program, nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r.out
}

// outputs reads the outputs of an applied configuration into out, a pointer to a
// struct with their names.
func outputs(t *testing.T, dir, program string, out any) {
	t.Helper()
	var values map[string]struct {
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal([]byte(must(t, dir, program, "output", "-json")), &values); err != nil {
		t.Fatal(err)
	}
	plain := map[string]json.RawMessage{}
	for k, v := range values {
		plain[k] = v.Value
	}
	text, err := json.Marshal(plain)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		t.Fatal(err)
	}
}

package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programs are the daemons of the tiers.
var programs = map[string]string{relayTier: "postern-relay", backendTier: "postern-backend", witnessTier: "postern-witness"}

// modulePath is how go.mod begins where the programs can be built.
const modulePath = "module github.com/postern-mail/postern"

// findPrograms returns the folder with the daemons: the one of this program,
// or, when it runs out of its source (go run), dir/bin after building them.
func findPrograms(ctx context.Context, dir string, say func(string, ...any)) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	beside := filepath.Dir(exe)
	missing := missingProgram(beside)
	if missing == "" {
		return beside, nil
	}
	root, ok := moduleRoot()
	if !ok {
		return "", fmt.Errorf("%s is not beside %s", missing, exe)
	}
	bin := filepath.Join(dir, binDir)
	say("building the programs into %s", bin)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin+string(filepath.Separator), "./cmd/...")
	cmd.Dir, cmd.SysProcAttr = root, sysProcAttr()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("go build ./cmd/... in %s: %w", root, err), errors.New(strings.TrimSpace(string(out))))
	}
	if missing := missingProgram(bin); missing != "" {
		return "", fmt.Errorf("%s was not built", missing)
	}
	return bin, nil
}

func missingProgram(dir string) string {
	for _, tier := range []string{relayTier, backendTier, witnessTier} {
		if fi, err := os.Stat(filepath.Join(dir, programs[tier])); err != nil || fi.IsDir() {
			return programs[tier]
		}
	}
	return ""
}

// moduleRoot finds our source around the working directory.
func moduleRoot() (string, bool) {
	dir, err := os.Getwd()
	for err == nil {
		text, e := os.ReadFile(filepath.Join(dir, "go.mod"))
		if e == nil {
			line, _, _ := strings.Cut(string(text), "\n")
			return dir, strings.TrimSpace(line) == modulePath
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	return "", false
}

// program is the program of a node: that of the cluster, or the one it was
// replaced by.
func (c *cluster) program(n *node) string {
	if n.Bin != "" {
		return filepath.Join(n.Bin, programs[n.Tier])
	}
	return filepath.Join(c.bin, programs[n.Tier])
}

// replaceable refuses a folder without the node's program.
func (c *cluster) replaceable(n *node, dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%s: want the whole path of a folder", dir)
	}
	fi, err := os.Stat(filepath.Join(dir, programs[n.Tier]))
	if err == nil && fi.Mode()&0o111 == 0 {
		err = fmt.Errorf("%s is no program", fi.Name())
	}
	return err
}

// given is the folder of --binaries, which every node runs from now on.
func (c *cluster) given(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if missing := missingProgram(dir); missing != "" {
		return "", fmt.Errorf("%s holds no %s", dir, missing)
	}
	for _, n := range c.layout.Nodes {
		n.Bin = dir
	}
	return dir, c.layout.save(c.dir)
}

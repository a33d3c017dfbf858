package packages

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/shared/peertest"
)

// lab is what all tests of a run share; each part is made when it is first asked
// for, and all of it is removed at the end.
var lab struct {
	dir         string
	build, base sync.Once
	boots       sync.Once
	buildErr    error
	baseErr     error
	bootsErr    error
	signer      ed25519.PublicKey
}

func TestMain(m *testing.M) {
	var err error
	if lab.dir, err = os.MkdirTemp("", "postern-packages-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if err := os.RemoveAll(lab.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// need skips unless root runs the test and the programs are there.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and installs packages")
	}
	if os.Getuid() != 0 {
		peertest.Lacks(t, "only root can install packages")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			peertest.Lacks(t, "%s is not installed: integration/tools/peers", p)
		}
	}
}

// output runs a program and returns what it says; it must end well.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// build makes the packages in a folder of the lab.
func build(dir string, env ...string) error {
	cmd := exec.Command("../../deploy/packages/build", dir)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// dist returns the folder with the packages, signed with a key of this run.
func dist(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(lab.dir, "dist")
	lab.build.Do(func() {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			lab.buildErr = err
			return
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			lab.buildErr = err
			return
		}
		file := filepath.Join(lab.dir, "signing.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			lab.buildErr = err
			return
		}
		lab.signer = pub
		lab.buildErr = build(dir, "SIGNING_KEY="+file)
	})
	if lab.buildErr != nil {
		t.Fatal(lab.buildErr)
	}
	return dir
}

// one returns the only file in dir that matches.
func one(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v %v", pattern, found, err)
	}
	return found[0]
}

func deb(t *testing.T, name string) string { return one(t, dist(t), name+"_*.deb") }

func rpm(t *testing.T, name string) string { return one(t, dist(t), name+"-[0-9]*.rpm") }

// debian returns the folder of a Debian 12 of its own, as debootstrap makes it.
func debian(t *testing.T) string {
	t.Helper()
	need(t, "debootstrap", "dpkg")
	base := filepath.Join(lab.dir, "debian")
	lab.base.Do(func() {
		_, lab.baseErr = try("debootstrap", "--variant=minbase", "bookworm", base)
	})
	if lab.baseErr != nil {
		peertest.Lacks(t, "no Debian: %v", lab.baseErr)
	}
	dir := filepath.Join(t.TempDir(), "root")
	output(t, "cp", "-a", base, dir)
	return dir
}

// booting returns the folder of a Debian 12 of its own that boots.
func booting(t *testing.T) string {
	t.Helper()
	boots := filepath.Join(lab.dir, "boots")
	lab.boots.Do(func() {
		root := debian(t)
		_, lab.bootsErr = try("chroot", root, "sh", "-ec", "apt-get update && apt-get install -y --no-install-recommends systemd systemd-sysv dbus && apt-get clean")
		if lab.bootsErr == nil {
			lab.bootsErr = os.Rename(root, boots)
		}
	})
	if lab.bootsErr != nil {
		peertest.Lacks(t, "Debian's systemd cannot be had: %v", lab.bootsErr)
	}
	dir := filepath.Join(t.TempDir(), "root")
	output(t, "cp", "-a", boots, dir)
	return dir
}

// in runs a command of a shell inside root.
func in(t *testing.T, root, command string) string {
	t.Helper()
	return output(t, "chroot", root, "/bin/sh", "-ec", command)
}

// install installs packages by their names.
func install(t *testing.T, root string, names ...string) {
	t.Helper()
	args := []string{root, "dpkg", "-i"}
	for _, n := range names {
		file := deb(t, n)
		output(t, "cp", file, filepath.Join(root, "root"))
		args = append(args, filepath.Join("/root", filepath.Base(file)))
	}
	output(t, "chroot", args...)
}

package packages

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

var programs = []string{"postern", "postern-relay", "postern-backend", "postern-witness"}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReproducible builds again, elsewhere, in another time zone, under another
// umask, and in a nightly run without anything that was compiled before: the sums
// of all files are the same, they are those of the files, and they are signed.
func TestReproducible(t *testing.T) {
	need(t, "git", "openssl")
	first, second := dist(t), filepath.Join(t.TempDir(), "again")
	env := []string{"TMPDIR=" + t.TempDir(), "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8"}
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		env = append(env, "GOCACHE="+t.TempDir())
	}
	old := syscall.Umask(0o077)
	err := build(second, env...)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	sums := read(t, filepath.Join(first, "SHA256SUMS"))
	if again := read(t, filepath.Join(second, "SHA256SUMS")); string(again) != string(sums) {
		t.Errorf("two builds of one commit differ:\n%s\n%s", sums, again)
	}
	if n := strings.Count(string(sums), "\n"); n != 3*len(programs) {
		t.Errorf("%d sums:\n%s", n, sums)
	}
	output(t, "sh", "-c", "cd "+second+" && sha256sum --check --strict SHA256SUMS")
	sig := read(t, filepath.Join(first, "SHA256SUMS.sig"))
	if !ed25519.Verify(lab.signer, sums, sig) {
		t.Error("the signature is not good")
	}
	if ed25519.Verify(lab.signer, append(sums, '\n'), sig) {
		t.Error("the signature is good for anything")
	}
	if _, err := os.Stat(filepath.Join(second, "SHA256SUMS.sig")); err == nil {
		t.Error("signed without a key")
	}
}

// TestPrograms: what is shipped needs no library of the host, knows its commit,
// and its SBOM names the modules that it has.
func TestPrograms(t *testing.T) {
	need(t, "dpkg-deb", "go")
	for _, p := range programs {
		root := t.TempDir()
		output(t, "dpkg-deb", "-x", deb(t, p), root)
		file := one(t, root, "usr/*bin/"+p)
		info := output(t, "go", "version", "-m", file)
		for _, want := range []string{"CGO_ENABLED=0", "-trimpath=true", "vcs.revision=", "vcs.modified=false"} {
			if !strings.Contains(info, want) {
				t.Errorf("%s: built without %s", p, want)
			}
		}
		if out, err := try("ldd", file); err == nil {
			t.Errorf("%s needs libraries: %s", p, out)
		}
		var sbom struct {
			BOMFormat  string
			Components []struct{ Name, Version string }
		}
		if err := json.Unmarshal(read(t, filepath.Join(root, "usr/share/doc", p, "sbom.cdx.json")), &sbom); err != nil {
			t.Fatal(err)
		}
		has := map[string]bool{}
		for _, c := range sbom.Components {
			has[c.Name+" "+c.Version] = true
		}
		deps := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(info, -1)
		for _, d := range deps {
			if !has[d[1]+" "+d[2]] {
				t.Errorf("%s: %s %s is not in the SBOM", p, d[1], d[2])
			}
		}
		if sbom.BOMFormat != "CycloneDX" || len(deps) < 10 {
			t.Errorf("%s: %s, %d modules", p, sbom.BOMFormat, len(deps))
		}
		rights := string(read(t, filepath.Join(root, "usr/share/doc", p, "copyright")))
		for _, d := range deps {
			at := strings.Index(rights, "======== "+d[1]+" "+d[2]+"\n")
			if at < 0 || len(rights[at:]) < 300 {
				t.Errorf("%s: no licence of %s %s", p, d[1], d[2])
			}
		}
	}
}

// maxExposure is what systemd-analyze security may say of a unit, at most.
const maxExposure = 2.0

var exposureLine = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

func exposure(t *testing.T, unit string) float64 {
	t.Helper()
	out, _ := try("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
	m := exposureLine.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("%s: %s", unit, out)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestExposure: what a daemon or a job may do is little; the same unit without its
// sandbox is over the limit.
func TestExposure(t *testing.T) {
	need(t, "systemd-analyze", "dpkg-deb")
	for unit, pkg := range map[string]string{
		"relay": "postern-relay", "backend": "postern-backend", "witness": "postern-witness", "quota": "postern", "purge": "postern",
	} {
		tier, root := unit, t.TempDir()
		output(t, "dpkg-deb", "-x", deb(t, pkg), root)
		unit := filepath.Join(root, "usr/lib/systemd/system/postern-"+tier+".service")
		is := exposure(t, unit)
		t.Logf("postern-%s.service: %.1f", tier, is)
		if is > maxExposure {
			t.Errorf("postern-%s.service: exposure %.1f", tier, is)
		}
		text := string(read(t, unit))
		open := filepath.Join(t.TempDir(), "postern-"+tier+".service")
		cut := regexp.MustCompile(`(?m)^(Protect|Private|Restrict|System|Capability).*\n`).ReplaceAllString(text, "")
		if err := os.WriteFile(open, []byte(cut), 0o600); err != nil {
			t.Fatal(err)
		}
		if is := exposure(t, open); is <= maxExposure {
			t.Errorf("without its sandbox, postern-%s.service still has %.1f", tier, is)
		}
	}
}

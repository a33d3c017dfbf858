package packages

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestRPM: each file has its owner and mode, the configuration is kept at an
// upgrade, and the package installs and goes.
func TestRPM(t *testing.T) {
	need(t, "rpm")
	daemon := func(tier string, more ...string) []string {
		return append([]string{
			"/etc/postern drwxr-xr-x root:root ",
			"/etc/postern/" + tier + ".yaml -rw-r----- root:postern cn",
			"/usr/sbin/postern-" + tier + " -rwxr-xr-x root:root ",
			"/usr/lib/systemd/system/postern-" + tier + ".service -rw-r--r-- root:root ",
			"/usr/lib/sysusers.d/postern-" + tier + ".conf -rw-r--r-- root:root ",
			"/usr/lib/tmpfiles.d/postern-" + tier + ".conf -rw-r--r-- root:root ",
			"/usr/share/man/man8/postern-" + tier + ".8.gz -rw-r--r-- root:root ",
			"/usr/share/doc/postern-" + tier + "/copyright -rw-r--r-- root:root ",
			"/usr/share/doc/postern-" + tier + "/sbom.cdx.json -rw-r--r-- root:root ",
			"/usr/share/doc/postern-" + tier + "/options.md -rw-r--r-- root:root ",
		}, more...)
	}
	socket := func(name string) string { return "/usr/lib/systemd/system/" + name + ".socket -rw-r--r-- root:root " }
	for name, want := range map[string][]string{
		"postern-relay":   daemon("relay", socket("postern-mx"), socket("postern-submit"), socket("postern-proxy"), socket("postern-dns")),
		"postern-backend": daemon("backend"),
		"postern-witness": daemon("witness"),
	} {
		out := output(t, "rpm", "-qp", "--qf", `[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags}\n]`, rpm(t, name))
		have := map[string]bool{}
		for line := range strings.Lines(out) {
			have[strings.TrimSuffix(line, "\n")] = true
		}
		for _, w := range want {
			if !have[w] {
				t.Errorf("%s lacks %q", name, w)
			}
			delete(have, w)
		}
		if len(have) > 0 {
			t.Errorf("%s has besides: %v", name, have)
		}
	}
	root := debian(t)
	// It stands for a distribution of rpm: its own programs, and a shell.
	outside := []string{"--root", root, "--dbpath", "/var/lib/rpm", "--nodeps"}
	for _, name := range programs {
		output(t, "cp", rpm(t, name), filepath.Join(root, "root"))
	}
	in(t, root, "mkdir -p /var/lib/rpm")
	for _, name := range programs {
		output(t, "rpm", append([]string{"-i"}, append(outside, rpm(t, name))...)...)
	}
	in(t, root, `postern version && postern-relay --version && postern-backend --version && postern-witness --version
for t in relay backend witness; do
  [ "$(stat -c '%a %U %G' /etc/postern/$t.yaml)" = "640 root postern" ]
  [ "$(stat -c '%a %U %G' /var/lib/postern/$t/tls)" = "700 postern postern" ]
  postern config check --role $t /etc/postern/$t.yaml
done`)
	for _, name := range programs {
		output(t, "rpm", append([]string{"-e"}, append(outside, name)...)...)
	}
	in(t, root, "if ls /usr/bin/postern /usr/sbin/postern* /etc/postern/*.yaml; then exit 1; fi")
}

package packages

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/peertest"
)

// atBoot is what the machine does once it is up; it ends with power off.
const atBoot = `[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /root/check
ExecStopPost=systemctl --no-block poweroff
StandardOutput=file:/root/out
StandardError=inherit
TimeoutStartSec=150
[Install]
WantedBy=multi-user.target
`

// TestBoot lets the manager itself run the units: all daemons at once on one
// machine, with its sandbox, sockets and watchdog.
func TestBoot(t *testing.T) {
	need(t, "systemd-nspawn")
	root := booting(t)
	install(t, root, programs...)
	for _, tt := range tiers {
		keys(t, root, tt.tier, tt.node, tt.roles)
	}
	for name, text := range map[string]string{
		"etc/systemd/system/check.service":                         atBoot,
		"etc/systemd/system/postern-relay.service.d/watchdog.conf": "[Service]\nWatchdogSec=2\n",
		"root/check": check,
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// One machine has one address: each node of the three has other ports.
	in(t, root, `sed -i 's/:7946 #/:7947 #/' /etc/postern/backend.yaml
sed -i 's/:7946 #/:7948 #/; s/listen: 0.0.0.0:8300/listen: 0.0.0.0:8301/' /etc/postern/witness.yaml
systemctl enable check postern-relay postern-mx.socket postern-submit.socket postern-proxy.socket postern-backend postern-witness`)
	console, err := try("timeout", "200", "systemd-nspawn", "--quiet", "--directory", root, "--register=no", "--keep-unit", "--private-network",
		"--machine", fmt.Sprintf("postern%d", os.Getpid()), "--boot")
	out, readErr := os.ReadFile(filepath.Join(root, "root/out"))
	if readErr != nil {
		peertest.Lacks(t, "no machine boots here: %v\n%s", err, console)
	}
	t.Logf("%s", out)
	if !strings.HasSuffix(string(out), "all is well\n") {
		t.Errorf("the machine has not come to its end\n%s", console)
	}
}

// check runs inside the machine; each line of it has to succeed.
const check = `set -euo pipefail
trap 'echo "failed in line $LINENO"; journalctl --no-pager -p err -n 30; systemctl --no-pager --failed' ERR
export HOME=/root
wait_for() { for i in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "never: $*"; return 1; }
pid() { systemctl show -P MainPID postern-$1; }
for t in relay backend witness; do
  wait_for systemctl is-active --quiet postern-$t
  [ "$(stat -c %U /proc/$(pid $t))" = postern ]
  grep -qE '^CapBnd:.0+$' /proc/$(pid $t)/status
  grep -qE '^Seccomp:.2$' /proc/$(pid $t)/status
  postern --dir /var/lib/postern/$t status >/dev/null
done
greets() ( exec 3<>/dev/tcp/127.0.0.1/25 && IFS= read -r -t 60 line <&3 && { [[ $line == "220 "* ]] || { echo "greeted with $line"; false; }; } )
wait_for greets
echo "the relay answers on port 25, which the manager opened"

# A relay that is started again refuses nobody: who comes meanwhile waits.
systemctl restart postern-relay & 
for i in $(seq 20); do greets; done
wait %1
echo "20 connections during a restart, none refused"

# A relay that does not answer is started again by the watchdog, within 2 s and a bit.
runs() { was=$(pid relay); [ "$was" != 0 ]; }
wait_for runs
kill -STOP $was
again() { now=$(pid relay); [ "$now" != 0 ] && [ "$now" != $was ]; }
wait_for again
wait_for greets
[ "$(systemctl show -P NRestarts postern-relay)" -ge 1 ]
echo "stopped by a signal, the relay was started again by the watchdog"

# What a fault of the program ends is started again, however often.
for i in $(seq 8); do
  wait_for runs
  kill -ABRT $was
  wait_for again
done
wait_for greets
echo "aborted 8 times, the relay was started again 8 times"

# Wrong configuration: the start fails, and the next one after the repair does not.
sed -i 's/^node:/nodes:/' /etc/postern/witness.yaml
if systemctl restart postern-witness; then exit 1; fi
[ "$(systemctl show -P ExecMainStatus postern-witness)" = 2 ]
sed -i 's/^nodes:/node:/' /etc/postern/witness.yaml
systemctl start postern-witness
systemctl reload postern-witness postern-backend postern-relay
for t in relay backend witness; do systemctl is-active --quiet postern-$t; done

# Removing a package stops what runs.
dpkg -r postern-relay >/dev/null
if (exec 3<>/dev/tcp/127.0.0.1/25) 2>/dev/null; then exit 1; fi
[ ! -e /etc/systemd/system/multi-user.target.wants/postern-relay.service ]
echo "all is well"
`

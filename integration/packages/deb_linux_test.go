package packages

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/shared/peertest"
)

// tiers are the daemons, with the node of each one's own configuration.
var tiers = []struct {
	tier, node, roles string
	ports             []string // that the manager opens, and what the server says first
}{
	{"relay", "relay1", "relay-mx,relay-proxy", []string{
		"25 220 relay1.example.com", "587 220 relay1.example.com", "465", "143 * OK", "993", "110 +OK", "995",
	}},
	{"backend", "store1a", "backend", nil},
	{"witness", "witness1", "witness", nil},
}

// keys gives a node its certificates, as an operator would.
func keys(t *testing.T, root, tier, node, roles string) {
	t.Helper()
	script := `cd /root
tls=/var/lib/postern/` + tier + `/tls
[ -d pki ] || postern pki init --cluster example
[ -e gossip.key ] || postern gossip key new >gossip.key
postern pki issue ` + node + ` --role ` + roles + ` --out $tls/node
cp pki/ca.pem gossip.key $tls/
`
	if tier == "relay" {
		script += "postern pki issue mail --public --dns relay1.example.com --out $tls/public\n"
	}
	script += "chown -R postern:postern $tls\n"
	if tier != "relay" {
		script += "runuser -u postern -- postern-" + tier + " --config /etc/postern/" + tier + ".yaml --create\n"
	}
	in(t, root, script)
}

// TestDeb: a package installs into a clean Debian, its daemon runs as its own
// user on the sockets that it is given, with the configuration that the package
// brings; removed, it leaves its state; purged, it leaves mail and nothing else.
func TestDeb(t *testing.T) {
	for _, tt := range tiers {
		t.Run(tt.tier, func(t *testing.T) {
			root := debian(t)
			install(t, root, "postern", "postern-"+tt.tier)
			keys(t, root, tt.tier, tt.node, tt.roles)
			for file, want := range map[string]string{
				"/etc/postern":                           "755 root root",
				"/etc/postern/" + tt.tier + ".yaml":      "640 root postern",
				"/var/lib/postern":                       "755 root root",
				"/var/lib/postern/" + tt.tier:            "700 postern postern",
				"/var/lib/postern/" + tt.tier + "/tls":   "700 postern postern",
				"/usr/sbin/postern-" + tt.tier:           "755 root root",
				"/usr/share/man/man8/postern-relay.8.gz": "644 root root",
			} {
				if strings.Contains(file, "/man8/") && tt.tier != "relay" {
					continue
				}
				if got := strings.TrimSpace(in(t, root, "stat -c '%a %U %G' "+file)); got != want {
					t.Errorf("%s: %s, want %s", file, got, want)
				}
			}
			runs(t, root, tt.tier, tt.ports)
			leaves(t, root, tt.tier)
		})
	}
}

// runs starts a daemon as its unit would and ends it again.
func runs(t *testing.T, root, tier string, ports []string) {
	runtime.LockOSThread() // never unlocked: the thread and its network end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		peertest.Lacks(t, "no network of its own: %v", err)
	}
	output(t, "ip", "link", "set", "lo", "up")
	notices, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(root, "run/notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notices.Close()
	if err := os.Chmod(filepath.Join(root, "run/notify"), 0o777); err != nil {
		t.Fatal(err)
	}
	// A manager writes the pid of the process that it becomes.
	cmd := exec.Command("sh", "-c", `export LISTEN_PID=$$; exec chroot --userspec=postern:postern "$0" "$@"`,
		root, "/usr/sbin/postern-"+tier, "--config", "/etc/postern/"+tier+".yaml")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=400000"}
	for _, p := range ports {
		number, _, _ := strings.Cut(p, " ")
		l, err := net.Listen("tcp", ":"+number)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.TCPListener).File()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if tier == "relay" {
		cmd.Env = append(cmd.Env, "POSTERN_DNS_SERVE_LISTEN=:53", "POSTERN_DNS_SERVE_ZONE=mx.example.com")
		cmd.ExtraFiles = append(cmd.ExtraFiles, sockets53(t)...)
	}
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+itoa(len(cmd.ExtraFiles)))
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	say := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		_ = notices.SetReadDeadline(time.Now().Add(30 * time.Second))
		for {
			n, err := notices.Read(b)
			if err != nil {
				_ = cmd.Process.Kill()
				<-ended
				t.Fatalf("no %s: %v\n%s", want, err, log.String())
			}
			if string(b[:n]) == want {
				return
			}
		}
	}
	say("READY=1")
	say("WATCHDOG=1")
	say("WATCHDOG=1")
	uid := in(t, root, "id -u postern")
	status := string(read(t, "/proc/"+itoa(cmd.Process.Pid)+"/status"))
	for _, want := range []string{"Uid:\t" + strings.TrimSpace(uid), "CapEff:\t0000000000000000"} {
		if !strings.Contains(status, want) {
			t.Errorf("the process has not %q: %s", want, status)
		}
	}
	for _, p := range ports {
		answers(t, p)
	}
	if tier == "relay" {
		answers(t, "53")
		answersDNS(t)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	say("STOPPING=1")
	if err := <-ended; err != nil {
		t.Errorf("ended: %v", err)
	}
	if s := log.String(); strings.Contains(s, `"level":"ERROR"`) || !strings.Contains(s, "has stopped") {
		t.Errorf("logged: %s", s)
	}
}

// sockets53 are those of postern-dns.socket.
func sockets53(t *testing.T) (out []*os.File) {
	t.Helper()
	l, err := net.Listen("tcp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, s := range []any{l, p} {
		f, err := s.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		out = append(out, f)
	}
	return out
}

// answersDNS asks by UDP for the relays that are fit. It stays on its thread, which
// alone is in the daemon's network.
func answersDNS(t *testing.T) {
	t.Helper()
	c, err := net.Dial("udp4", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// MX of mx.example.com.
	if _, err := c.Write([]byte("\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02mx\x07example\x03com\x00\x00\x0f\x00\x01")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1500)
	n, err := c.Read(b)
	if err != nil || n < 12 || string(b[:2]) != "\x12\x34" || b[2]&0x84 != 0x84 || b[3]&0x0f != 0 || string(b[6:8]) != "\x00\x01" || !strings.Contains(string(b[:n]), "\x06relay1") {
		t.Errorf("port 53 by UDP: %q %v", b[:n], err)
	}
}

// answers checks "PORT" or "PORT GREETING" on loopback.
func answers(t *testing.T, p string) {
	t.Helper()
	number, greeting, speaks := strings.Cut(p, " ")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp4", "127.0.0.1:"+number)
	if err != nil {
		t.Errorf("port %s: %v", number, err)
		return
	}
	defer c.Close()
	if !speaks {
		return
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, greeting) {
		t.Errorf("port %s says %q, want %s: %v", number, line, greeting, err)
	}
}

// leaves removes and purges.
func leaves(t *testing.T, root, tier string) {
	state := "/var/lib/postern/" + tier
	if tier == "relay" { // a message that is nowhere else
		in(t, root, "mkdir -p "+state+"/queue/incoming && echo >"+state+"/queue/incoming/1.msg")
	}
	in(t, root, "dpkg -r postern-"+tier)
	in(t, root, "test -e /etc/postern/"+tier+".yaml; test -e "+state+"/tls/node-key.pem; test ! -e /usr/sbin/postern-"+tier)
	said := in(t, root, "dpkg -P postern-"+tier)
	in(t, root, "test ! -e /etc/postern/"+tier+".yaml; test ! -e "+state+"/tls; test ! -e "+state+"/journal")
	kept := map[string]string{"relay": "queue", "backend": "pair1", "witness": "pair1"}[tier]
	if !strings.Contains(said, "left, since it may be mail that is nowhere else: "+state+"/"+kept+" ") {
		t.Errorf("purge says %s", said)
	}
	in(t, root, "test -d "+state+"/"+kept)
	// Without mail, nothing stays.
	install(t, root, "postern-"+tier)
	in(t, root, "rm -r "+state+"/"+kept+"; dpkg -P postern-"+tier+" postern; test ! -e /etc/postern; test ! -e /var/lib/postern")
}

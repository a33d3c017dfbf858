package packages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/shared/dns"
)

const (
	elsewhere = "192.0.2.10" // a host on the network that stands for the Internet
	archive   = elsewhere + ":3128"
	// known is what the DNS there knows.
	known = "example.net. MX 10 mx.example.net.\nmx.example.net. A " + elsewhere + "\n"
)

// site is the networks dmz, data and mgmt, and one that stands for the Internet, with
// two routers between them: what the script of the local example makes.
type site struct {
	t      *testing.T
	prefix string
	state  string
	routes bool // the machines may set what a kernel does with packets, as on real ones
}

// newSite makes the networks, with routers that pass everything until they are told
// otherwise, and a host outside with a DNS and the way to Debian's packages.
func newSite(t *testing.T) *site {
	t.Helper()
	need(t, "systemd-nspawn", "ip", "nft", "nsenter", "setsid", "bash")
	s := &site{t: t, prefix: fmt.Sprintf("pk%d", os.Getpid()), state: t.TempDir()}
	t.Cleanup(func() { s.zones("down") })
	s.zones("up")
	for _, router := range []string{"outer", "inner"} {
		output(t, "nsenter", "--net="+s.path(router), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	}
	s.host("internet", elsewhere)
	s.serve()
	return s
}

func (s *site) path(host string) string { return "/run/netns/" + s.prefix + "-" + host }

// zones runs the script.
func (s *site) zones(command string, env ...string) {
	s.t.Helper()
	cmd := exec.Command("sh", "../../terraform/modules/local-zones/zones.sh", command)
	cmd.Env = append(os.Environ(), "PREFIX="+s.prefix, "STATE="+s.state, "WORLD_GW=192.0.2.1", "DMZ_GW=10.77.1.1", "DATA_GW=10.77.2.1", "MGMT_GW=10.77.3.1",
		"INNER=10.77.1.2", "DATA=10.77.2.0/24", "MGMT=10.77.3.0/24", "WORLD6=", "DMZ6=")
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("zones.sh %s: %v\n%s", command, err, out)
	}
}

// host makes the place for a machine, in the network of its address.
func (s *site) host(name, address string) {
	s.t.Helper()
	zone := "internet"
	for network, z := range map[string]string{"10.77.1.": "dmz", "10.77.2.": "data", "10.77.3.": "mgmt"} {
		if strings.HasPrefix(address, network) {
			zone = z
		}
	}
	env := []string{"NAME=" + name, "ZONE=" + zone, "ADDRESS=" + address, "ADDRESS6=", fmt.Sprintf("PORT=h%x", sha256.Sum256([]byte(name)))[:16]}
	s.zones("host", env...)
	s.t.Cleanup(func() { s.zones("unhost", env...) })
}

// The first thread of a process cannot end, and a process is where that one is: it
// stays with TestMain.
func init() { runtime.LockOSThread() }

// within runs f in the network of a host, on a thread that ends with it.
func (s *site) within(host string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		ns, err := os.Open(s.path(host))
		if err == nil {
			defer ns.Close()
			if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

// serve runs what a machine finds outside.
func (s *site) serve() {
	t := s.t
	t.Helper()
	zone, err := dns.ParseZone(".", known)
	if err != nil {
		t.Fatal(err)
	}
	var names *dns.Server
	var l net.Listener
	if err := s.within("internet", func() (err error) {
		if names, err = dns.Listen(elsewhere+":53", zone); err == nil {
			l, err = net.Listen("tcp", archive)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	packages := &http.Server{Handler: &keeper{}}
	var wg sync.WaitGroup
	wg.Go(func() { _ = names.Run(ctx) })
	wg.Go(func() { _ = packages.Serve(l) })
	t.Cleanup(func() {
		cancel()
		packages.Close()
		wg.Wait()
	})
}

// keeper is a proxy for programs that fetch packages: each file is fetched once, and
// all machines get it.
type keeper struct{ files sync.Map } // of *file, by address

type file struct {
	once   sync.Once
	status int
	text   []byte
}

func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Scheme != "http" {
		http.Error(w, "only GET, and only of http", http.StatusMethodNotAllowed)
		return
	}
	v, _ := k.files.LoadOrStore(r.URL.String(), &file{})
	f := v.(*file)
	f.once.Do(func() {
		for range 3 { // an archive is not always there at once
			if f.fetch(r.URL.String()); f.status < http.StatusInternalServerError {
				return
			}
		}
	})
	w.Header().Set("Content-Length", itoa(len(f.text)))
	w.WriteHeader(f.status)
	_, _ = io.Copy(w, bytes.NewReader(f.text)) // who asked may have gone
}

func (f *file) fetch(address string) {
	f.status = http.StatusBadGateway
	answer, err := http.Get(address)
	if err != nil {
		f.text = []byte(err.Error())
		return
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 512<<20))
	if err != nil {
		f.text = []byte(err.Error())
		return
	}
	f.status, f.text = answer.StatusCode, text
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// firstInherited is the descriptor of the first socket that a service manager
// passes (sd_listen_fds(3)).
const firstInherited = 3

// maxInherited bounds what LISTEN_FDS is believed.
const maxInherited = 1024

// inherited are the listeners that the service manager has opened for this
// process, so that it needs no privilege for ports below 1024 and none of its
// clients is refused while it starts again.
type inherited struct {
	mu   sync.Mutex // guards what follows
	all  []net.Listener
	used []bool
}

var fromManager = sync.OnceValues(func() (*inherited, error) {
	return inherit(os.Getenv, os.Unsetenv, firstInherited)
})

// Listen returns a listener on addr, host:port, for TCP: the one that the service
// manager has opened on that address, if there is one, and a new one otherwise.
// A socket of the manager can be listened on again after Close.
func Listen(addr string) (net.Listener, error) { return ListenWith(net.ListenConfig{}, addr) }

// ListenWith is Listen with settings for a new listener.
func ListenWith(lc net.ListenConfig, addr string) (net.Listener, error) {
	in, err := fromManager()
	if err != nil {
		return nil, err
	}
	return in.listen(lc, addr)
}

// inherit reads the environment and leaves nothing of it to child processes.
func inherit(getenv func(string) string, unset func(string) error, first int) (*inherited, error) {
	pid, count := getenv("LISTEN_PID"), getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = unset(name) // its name is valid
	}
	in := new(inherited)
	if count == "" || pid != strconv.Itoa(os.Getpid()) {
		return in, nil // none, or meant for another process
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxInherited {
		return nil, fmt.Errorf("LISTEN_FDS=%q: want a number up to %d", count, maxInherited)
	}
	for fd := first; fd < first+n; fd++ {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))
		l, err := net.FileListener(f) // has a descriptor of its own
		err = errors.Join(err, f.Close())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("socket %d of the service manager: %w", fd, err), in.close())
		}
		in.all = append(in.all, l)
	}
	in.used = make([]bool, len(in.all))
	return in, nil
}

// listen is ListenWith.
func (in *inherited) listen(lc net.ListenConfig, addr string) (net.Listener, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, l := range in.all {
		t, ok := l.(*net.TCPListener)
		if !ok || !sameAddress(t.Addr(), addr) {
			continue
		}
		f, err := t.File() // a copy: closing it leaves the manager's open
		if err != nil {
			return nil, err
		}
		again, err := net.FileListener(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		in.used[i] = true
		return again, nil
	}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if errors.Is(err, syscall.EACCES) {
		have := "none"
		if len(in.all) > 0 {
			have = strings.Join(in.names(false), ", ")
		}
		err = fmt.Errorf("%w; a port below 1024 is opened by a socket unit of the service manager, which has passed: %s", err, have)
	}
	return l, err
}

// names lists the addresses, or those that nobody has asked for.
func (in *inherited) names(unused bool) (out []string) {
	for i, l := range in.all {
		if !unused || !in.used[i] {
			out = append(out, l.Addr().String())
		}
	}
	return out
}

// unclaimed says which sockets of the manager nobody answers on: clients that
// connect there wait for nothing.
func (in *inherited) unclaimed(log *slog.Logger) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, name := range in.names(true) {
		log.Error("the service manager listens on an address that the configuration does not have: clients are not answered there; stop the socket unit or add the address",
			"addr", name)
	}
}

func (in *inherited) close() error {
	var errs []error
	for _, l := range in.all {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// sameAddress reports whether a listener is on addr. All addresses of one
// family count as all addresses.
func sameAddress(have net.Addr, addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	at, err := netip.ParseAddrPort(have.String())
	if err != nil {
		return false
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n != int(at.Port()) {
		return false
	}
	if host == "" {
		return at.Addr().IsUnspecified()
	}
	want, err := netip.ParseAddr(host)
	if err != nil {
		return false // a name: where it leads is not for us to guess
	}
	return want.Unmap() == at.Addr().Unmap() || want.IsUnspecified() && at.Addr().IsUnspecified()
}

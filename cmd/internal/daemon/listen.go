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

// inherited are the sockets that the service manager has opened for this
// process, so that it needs no privilege for ports below 1024 and none of its
// clients is refused while it starts again.
type inherited struct {
	mu   sync.Mutex // guards what follows
	all  []socket
	used []bool
}

// socket is a *net.TCPListener, *net.UDPConn or another of the manager's.
type socket interface{ Close() error }

// addrOf is where a socket is.
func addrOf(s socket) net.Addr {
	switch s := s.(type) {
	case net.Listener:
		return s.Addr()
	case net.PacketConn:
		return s.LocalAddr()
	}
	return &net.UnixAddr{}
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

// ListenPacket is Listen for UDP.
func ListenPacket(addr string) (net.PacketConn, error) {
	in, err := fromManager()
	if err != nil {
		return nil, err
	}
	return in.listenPacket(addr)
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
		l, err := socketOf(f)
		err = errors.Join(err, f.Close())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("socket %d of the service manager: %w", fd, err), in.close())
		}
		in.all = append(in.all, l)
	}
	in.used = make([]bool, len(in.all))
	return in, nil
}

// socketOf has a descriptor of its own.
func socketOf(f *os.File) (socket, error) {
	kind, err := syscall.GetsockoptInt(int(f.Fd()), syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if kind == syscall.SOCK_DGRAM {
		return net.FilePacketConn(f)
	}
	return net.FileListener(f)
}

// listen is ListenWith.
func (in *inherited) listen(lc net.ListenConfig, addr string) (net.Listener, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, s := range in.all {
		if t, ok := s.(*net.TCPListener); ok && sameAddress(t.Addr(), addr) {
			return again(in, i, t, net.FileListener)
		}
	}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	return l, in.explain(err)
}

// listenPacket is ListenPacket.
func (in *inherited) listenPacket(addr string) (net.PacketConn, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, s := range in.all {
		if u, ok := s.(*net.UDPConn); ok && sameAddress(u.LocalAddr(), addr) {
			return again(in, i, u, net.FilePacketConn)
		}
	}
	p, err := net.ListenPacket("udp", addr)
	return p, in.explain(err)
}

// again opens the socket with the number i once more: closing the copy leaves the
// manager's open.
func again[T any](in *inherited, i int, s interface{ File() (*os.File, error) }, open func(*os.File) (T, error)) (out T, err error) {
	f, err := s.File()
	if err != nil {
		return out, err
	}
	out, err = open(f)
	if err = errors.Join(err, f.Close()); err == nil {
		in.used[i] = true
	}
	return out, err
}

// explain says of a port that only root may open what else opens it.
func (in *inherited) explain(err error) error {
	if !errors.Is(err, syscall.EACCES) {
		return err
	}
	have := "none"
	if len(in.all) > 0 {
		have = strings.Join(in.names(false), ", ")
	}
	return fmt.Errorf("%w; a port below 1024 is opened by a socket unit of the service manager, which has passed: %s", err, have)
}

// names lists the addresses, or those that nobody has asked for.
func (in *inherited) names(unused bool) (out []string) {
	for i, s := range in.all {
		if !unused || !in.used[i] {
			out = append(out, addrOf(s).String())
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
	for _, s := range in.all {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// sameAddress reports whether a socket is on addr. All addresses of one
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

package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/cmd/postern/dev"
	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/shared/admin"
)

// devTarget is a development cluster on this machine: nodes are stopped and
// started by its control socket, frozen by signals to their pids. Its directory
// lives in the process of `postern dev`, which is frozen to silence it.
type devTarget struct {
	dir     string
	file    *clusterfile.File
	tls     *tls.Config
	nodes   []drill.Node
	control *admin.Client

	mu    sync.Mutex     // guards the fields below
	hit   map[string]int // pids of nodes when a fault was put on them
	owner int            // pid of postern dev while it is frozen

	releases *releases
}

// openDevDrill finds the cluster in dir.
func openDevDrill(dir, other string) (*devTarget, error) {
	file, err := clusterfile.Read(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: no running development cluster: %w", dir, err)
	}
	conf, err := trustIn(file.CA)
	if err != nil {
		return nil, err
	}
	t := &devTarget{dir: dir, file: file, tls: conf, control: admin.NewUnixClient(dev.ControlSocket(dir)), hit: map[string]int{}}
	t.releases = t.releasesOf(other)
	for _, r := range file.Relays {
		t.nodes = append(t.nodes, drill.Node{Name: r.Name, Role: drill.RoleRelay, SMTP: r.SMTP, IMAPS: r.IMAPS, Admin: admin.NewUnixClient(r.Admin)})
	}
	for _, p := range file.Pairs {
		for _, n := range p.Nodes {
			role := drill.RoleData
			if n.Role == clusterfile.RoleWitness {
				role = drill.RoleWitness
			}
			t.nodes = append(t.nodes, drill.Node{Name: n.Name, Role: role, Pair: p.Name, Admin: admin.NewUnixClient(n.Admin)})
		}
	}
	return t, nil
}

// trustIn is a client configuration for relays of a development cluster.
func trustIn(ca string) (*tls.Config, error) {
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it", ca)
	}
	return &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}, nil
}

func (t *devTarget) close() {
	for _, n := range t.nodes {
		n.Admin.Close()
	}
	t.control.Close()
}

func (t *devTarget) Title() string       { return "development cluster in " + t.dir }
func (t *devTarget) Nodes() []drill.Node { return t.nodes }
func (t *devTarget) TLS() *tls.Config    { return t.tls }

func (t *devTarget) Users() (users []drill.User) {
	for _, u := range t.file.Users {
		users = append(users, drill.User{Login: u.Login, Password: u.Password, Address: u.Address, Pair: u.Pair})
	}
	return users
}

func (t *devTarget) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func (t *devTarget) Can(k drill.Kind) error {
	switch k {
	case drill.Kill, drill.Stop, drill.Start, drill.Pause, drill.Resume, drill.Transfer, drill.Drain, drill.Undrain, drill.MoveUsers:
		return nil
	case drill.ExpireCert, drill.RenewCert:
		return nil
	case drill.Upgrade, drill.Rollback:
		return t.releases.can()
	case drill.DirectoryOff, drill.DirectoryOn:
		if !canFindOwner {
			return errors.New("the process of postern dev cannot be found on this system")
		}
		if !strings.HasPrefix(t.file.Directory.URL, "ldap://127.") {
			return errors.New("the directory of this cluster is not its own")
		}
		return nil
	}
	return fmt.Errorf("%s needs network namespaces: --namespaces", k)
}

func (t *devTarget) Do(ctx context.Context, a drill.Action) error {
	var err error
	switch a.Kind {
	case drill.Kill, drill.Stop:
		if err := t.remember(a.Node); err != nil {
			return err
		}
		_, err = admin.Call(ctx, t.control, dev.StopNode, dev.NodeRequest{Node: a.Node, Kill: a.Kind == drill.Kill})
	case drill.Start:
		_, err = admin.Call(ctx, t.control, dev.StartNode, dev.NodeRequest{Node: a.Node})
	case drill.Pause:
		if err = t.remember(a.Node); err == nil {
			err = t.signal(a.Node, syscall.SIGSTOP)
		}
	case drill.Resume:
		err = t.signal(a.Node, syscall.SIGCONT)
	case drill.ExpireCert:
		err = t.certs().Renew(a.Node, drill.LastsFor)
	case drill.RenewCert:
		err = t.certs().Renew(a.Node, 0)
	case drill.Upgrade:
		err = t.releases.upgrade(ctx, a.Node)
	case drill.Rollback:
		err = t.releases.rollback(ctx, a.Node)
	case drill.DirectoryOff:
		err = t.freeze()
	case drill.DirectoryOn:
		err = t.thaw()
	default:
		err = t.Can(a.Kind)
	}
	return err
}

// remember notes the process that a fault is for.
func (t *devTarget) remember(node string) error {
	pid, err := t.pid(node)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hit[node] = pid
	return nil
}

// pid is the process of a node now.
func (t *devTarget) pid(node string) (int, error) {
	file, err := clusterfile.Read(t.dir)
	if err != nil {
		return 0, err
	}
	pid := 0
	for _, r := range file.Relays {
		if r.Name == node {
			pid = r.PID
		}
	}
	for _, p := range file.Pairs {
		for _, n := range p.Nodes {
			if n.Name == node {
				pid = n.PID
			}
		}
	}
	if pid <= 1 {
		return 0, fmt.Errorf("%s does not run", node)
	}
	return pid, nil
}

func (t *devTarget) signal(node string, sig syscall.Signal) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	pid := t.hit[node]
	if pid <= 1 {
		return fmt.Errorf("%s has no process that could be signalled", node)
	}
	return syscall.Kill(pid, sig)
}

// freeze stops the process of postern dev, which holds the directory and the
// DNS.
func (t *devTarget) freeze() error {
	pid, err := socketOwner(dev.ControlSocket(t.dir))
	if err != nil {
		return err
	}
	if pid <= 1 || pid == os.Getpid() {
		return fmt.Errorf("pid %d is not that of postern dev", pid)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.owner = pid
	return syscall.Kill(pid, syscall.SIGSTOP)
}

func (t *devTarget) thaw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owner <= 1 {
		return nil
	}
	pid := t.owner
	t.owner = 0
	return syscall.Kill(pid, syscall.SIGCONT)
}

func (t *devTarget) Real(ctx context.Context, a drill.Action) (string, error) {
	t.mu.Lock()
	pid := t.hit[a.Node]
	t.mu.Unlock()
	switch a.Kind {
	case drill.Kill, drill.Stop:
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return "", fmt.Errorf("process %d of %s is still there", pid, a.Node)
		}
		return fmt.Sprintf("process %d is gone", pid), nil
	case drill.Pause:
		state, err := drill.ProcessState(pid)
		if err != nil {
			return "", err
		}
		if state != "T" {
			return "", fmt.Errorf("process %d of %s is in state %s", pid, a.Node, state)
		}
		return fmt.Sprintf("process %d is stopped", pid), nil
	case drill.DirectoryOff:
		addr := strings.TrimPrefix(t.file.Directory.URL, "ldap://")
		return drill.DirectorySilent(ctx, addr, t.Dial)
	case drill.Upgrade:
		return t.releases.see(a.Node)
	case drill.Drain:
		return "asked by the admin API", nil
	}
	return "", fmt.Errorf("%s cannot be seen here", a.Kind)
}

var _ drill.Target = (*devTarget)(nil)

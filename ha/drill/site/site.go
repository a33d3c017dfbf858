/*
Package site is an operator's own cluster as the target of drills: a file names
its relays, admin ports and test users, and the commands by which faults are made
and taken back.

What it keeps true: nothing is done to the cluster that the file does not allow
by name; an action without its command in hooks is not possible. Commands run by
sh -c with the action in the environment (DRILL_ACTION, DRILL_NODE, DRILL_PEERS,
DRILL_PORTS), never in the text of the command, and are ended with their children
when their time is over. The one that moves users has their addresses on its
standard input, one a line, the pair in DRILL_PAIR, a relay that is not to be told in
DRILL_UNTOLD, and prints what postern directory user move --output json does.

That a fault is there is asked of a hook of its own, "see-" and the action; where
there is none, the node's silence on its admin port has to do, and cuts, which it
cannot show, are refused.
*/
package site

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// file is what the operator writes.
type file struct {
	Title      string `yaml:"title"`
	CA         string `yaml:"ca"`
	ServerName string `yaml:"server_name"`
	Admin      struct {
		Cert string `yaml:"cert"`
		Key  string `yaml:"key"`
		CA   string `yaml:"ca"`
	} `yaml:"admin"`
	Nodes   []node            `yaml:"nodes"`
	Users   []user            `yaml:"users"`
	Allow   []string          `yaml:"allow"`
	Hooks   map[string]string `yaml:"hooks"`
	Timeout time.Duration     `yaml:"hook_timeout"`
}

type node struct {
	Name   string `yaml:"name"`
	Role   string `yaml:"role"`
	Pair   string `yaml:"pair"`
	SMTP   string `yaml:"smtp"`
	IMAPS  string `yaml:"imaps"`
	Admin  string `yaml:"admin"`
	Socket string `yaml:"admin_socket"`
}

type user struct {
	Login        string `yaml:"login"`
	Password     string `yaml:"password"`
	PasswordFile string `yaml:"password_file"`
	Address      string `yaml:"address"`
	Pair         string `yaml:"pair"`
}

const (
	maxFile     = 1 << 20
	maxNodes    = 1000
	hookDefault = 30 * time.Second
	see         = "see-"
)

// byAPI are the kinds that need no hook.
var byAPI = []drill.Kind{drill.Transfer, drill.Drain, drill.Undrain}

// silent are the faults that a node's admin port shows.
var silent = []drill.Kind{drill.Kill, drill.Stop, drill.Pause, drill.PowerCut, drill.Drain}

// Site is the cluster.
type Site struct {
	f     *file
	nodes []drill.Node
	users []drill.User
	tls   *tls.Config
}

var (
	_ drill.Target = (*Site)(nil)
	_ drill.Mover  = (*Site)(nil)
)

// Open reads the file called name. Names of files in it are relative to its
// folder.
func Open(name string) (*Site, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d octets are too many", name, fi.Size())
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s, err := open(f, filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// parse reads and checks the text of a file.
func parse(text []byte) (*file, error) {
	var f file
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, err
	}
	if f.Timeout == 0 {
		f.Timeout = hookDefault
	}
	if f.Timeout < 0 {
		return nil, fmt.Errorf("hook_timeout %v: want more than 0", f.Timeout)
	}
	return &f, errors.Join(f.checkNodes(), f.checkUsers(), f.checkHooks())
}

func (f *file) checkNodes() error {
	if len(f.Nodes) > maxNodes {
		return fmt.Errorf("%d nodes are more than %d", len(f.Nodes), maxNodes)
	}
	seen := map[string]bool{}
	relays, tls := 0, false
	for i, n := range f.Nodes {
		what := fmt.Sprintf("node %d (%s)", i+1, n.Name)
		switch {
		case n.Name == "":
			return fmt.Errorf("%s: no name", what)
		case seen[n.Name]:
			return fmt.Errorf("%s: named twice", what)
		case !slices.Contains([]string{drill.RoleRelay, drill.RoleData, drill.RoleWitness}, n.Role):
			return fmt.Errorf("%s: role %q: want relay, data or witness", what, n.Role)
		case n.Role == drill.RoleRelay && (n.SMTP == "" || n.IMAPS == ""):
			return fmt.Errorf("%s: a relay needs smtp and imaps", what)
		case n.Role != drill.RoleRelay && n.Pair == "":
			return fmt.Errorf("%s: a replica needs pair", what)
		case (n.Admin == "") == (n.Socket == ""):
			return fmt.Errorf("%s: give admin or admin_socket", what)
		}
		for _, addr := range []string{n.SMTP, n.IMAPS, n.Admin} {
			if _, _, err := net.SplitHostPort(addr); addr != "" && err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		seen[n.Name] = true
		tls = tls || n.Admin != ""
		if n.Role == drill.RoleRelay {
			relays++
		}
	}
	if relays == 0 {
		return errors.New("no relay among the nodes")
	}
	if a := &f.Admin; tls && (a.Cert == "" || a.Key == "" || a.CA == "") {
		return errors.New("admin: cert, key and ca are needed for admin ports")
	}
	return nil
}

func (f *file) checkUsers() error {
	if len(f.Users) == 0 {
		return errors.New("no users to send to")
	}
	for i, u := range f.Users {
		what := fmt.Sprintf("user %d (%s)", i+1, u.Login)
		switch {
		case u.Login == "" || u.Pair == "":
			return fmt.Errorf("%s: login and pair are needed", what)
		case !strings.Contains(u.Address, "@"):
			return fmt.Errorf("%s: address %q has no @", what, u.Address)
		case (u.Password == "") == (u.PasswordFile == ""):
			return fmt.Errorf("%s: give password or password_file", what)
		}
	}
	return nil
}

func (f *file) checkHooks() error {
	for _, k := range f.Allow {
		if !slices.Contains(drill.Kinds(), drill.Kind(k)) {
			return fmt.Errorf("allow: no action %q; there are %v", k, drill.Kinds())
		}
		if f.Hooks[k] == "" && !slices.Contains(byAPI, drill.Kind(k)) {
			return fmt.Errorf("allow: %s needs a command in hooks", k)
		}
	}
	for k := range f.Hooks {
		if !slices.Contains(drill.Kinds(), drill.Kind(strings.TrimPrefix(k, see))) {
			return fmt.Errorf("hooks: no action %q; there are %v, and the same with %s before them", k, drill.Kinds(), see)
		}
	}
	return nil
}

func open(f *file, dir string) (*Site, error) {
	at := func(name string) string {
		if name == "" || filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(dir, name)
	}
	s := &Site{f: f, tls: &tls.Config{ServerName: f.ServerName, MinVersion: tls.VersionTLS12}}
	if f.CA != "" {
		pem, err := os.ReadFile(at(f.CA))
		if err != nil {
			return nil, err
		}
		s.tls.RootCAs = x509.NewCertPool()
		if !s.tls.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", f.CA)
		}
	}
	var store *tlsconf.Store
	if f.Admin.Cert != "" {
		var err error
		if store, err = tlsconf.Load(tlsconf.Files{CertFile: at(f.Admin.Cert), KeyFile: at(f.Admin.Key), CAFile: at(f.Admin.CA)}); err != nil {
			return nil, err
		}
	}
	for _, n := range f.Nodes {
		d := drill.Node{Name: n.Name, Role: n.Role, Pair: n.Pair, SMTP: n.SMTP, IMAPS: n.IMAPS}
		if n.Socket != "" {
			d.Admin = admin.NewUnixClient(at(n.Socket))
		} else {
			d.Admin = admin.NewTLSClient(n.Admin, n.Name, store)
		}
		s.nodes = append(s.nodes, d)
	}
	for _, u := range f.Users {
		if u.PasswordFile != "" {
			text, err := os.ReadFile(at(u.PasswordFile))
			if err != nil {
				return nil, err
			}
			u.Password = strings.TrimRight(string(text), "\r\n")
		}
		s.users = append(s.users, drill.User{Login: u.Login, Password: u.Password, Address: u.Address, Pair: u.Pair})
	}
	return s, nil
}

// Title is the operator's.
func (s *Site) Title() string {
	if s.f.Title != "" {
		return s.f.Title
	}
	return "cluster described by a file"
}

// Nodes are those of the file.
func (s *Site) Nodes() []drill.Node { return s.nodes }

// Users are those of the file.
func (s *Site) Users() []drill.User { return s.users }

// TLS trusts the CA of the file.
func (s *Site) TLS() *tls.Config { return s.tls }

// Dial connects from this machine.
func (s *Site) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// Can reports whether the file allows k.
func (s *Site) Can(k drill.Kind) error {
	if !slices.Contains(s.f.Allow, string(k)) {
		return fmt.Errorf("the file does not allow %s", k)
	}
	if !slices.Contains(silent, k) && drill.IsFault(k) && s.f.Hooks[see+string(k)] == "" {
		return fmt.Errorf("hooks has no %s%s to see whether it is real", see, k)
	}
	return nil
}

// Do runs the hook of a.
func (s *Site) Do(ctx context.Context, a drill.Action) error {
	if err := s.Can(a.Kind); err != nil {
		return err
	}
	_, err := s.hook(ctx, string(a.Kind), a)
	return err
}

// Real runs the hook that sees a; its output is what was seen.
func (s *Site) Real(ctx context.Context, a drill.Action) (string, error) {
	name := see + string(a.Kind)
	if s.f.Hooks[name] == "" {
		if slices.Contains(silent, a.Kind) {
			return "by its admin port alone", nil
		}
		return "", fmt.Errorf("hooks has no %s", name)
	}
	out, err := s.hook(ctx, name, a)
	if err != nil {
		return "", err
	}
	if out == "" {
		out = name + " says so"
	}
	return out, nil
}

// MoveUsers runs the hook that moves users.
func (s *Site) MoveUsers(ctx context.Context, addresses []string, to, untold string) ([]drill.UserMove, error) {
	if err := s.Can(drill.MoveUsers); err != nil {
		return nil, err
	}
	cmd := s.command(ctx, string(drill.MoveUsers), "DRILL_ACTION="+string(drill.MoveUsers), "DRILL_PAIR="+to, "DRILL_UNTOLD="+untold)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.Join(addresses, "\n")+"\n"), &out, &said
	err := cmd.Run()
	list, perr := drill.ParseUserMoves(out.Bytes())
	if perr != nil {
		return nil, fmt.Errorf("hook %s: %w: %s", drill.MoveUsers, errors.Join(err, perr), clip(said.Bytes()))
	}
	return list, context.Cause(ctx) // those who are not moved say so
}

// command is a hook, which finds in the environment what it is for.
func (s *Site) command(ctx context.Context, name string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", s.f.Hooks[name])
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	group(cmd)
	return cmd
}

// maxSaid bounds the output of a hook that is kept.
const maxSaid = 500

func clip(out []byte) string { return strings.TrimSpace(string(out[:min(len(out), maxSaid)])) }

func (s *Site) hook(ctx context.Context, name string, a drill.Action) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.f.Timeout)
	defer cancel()
	cmd := s.command(ctx, name, "DRILL_ACTION="+string(a.Kind), "DRILL_NODE="+a.Node, "DRILL_PEERS="+strings.Join(a.Peers, " "), "DRILL_PORTS="+strings.Trim(fmt.Sprint(a.Ports), "[]"))
	out, err := cmd.CombinedOutput()
	said := clip(out)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done within %v", s.f.Timeout)
		}
		return "", fmt.Errorf("hook %s of %s: %w: %s", name, a.Node, err, said)
	}
	return said, nil
}

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/ha/drill"
)

// moveEndWithin is the time of a move that is interrupted to leave its user open.
const moveEndWithin = 30 * time.Second

// moveUsers runs `postern directory user move` on the cluster of file, which it
// knows without the relay untold. command makes the program with its arguments,
// start starts it.
func moveUsers(ctx context.Context, file clusterfile.File, audit, untold string, addresses []string, to string,
	command func(program string, args ...string) (*exec.Cmd, error), start func(*exec.Cmd) error,
) ([]drill.UserMove, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "postern-move-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file.Version = clusterfile.Version
	file.Relays = slices.DeleteFunc(slices.Clone(file.Relays), func(r clusterfile.Relay) bool { return r.Name == untold })
	if err := file.Write(dir); err != nil {
		return nil, err
	}
	cmd, err := command(exe, "directory", "user", "move", "--list", "-", "--to", to, "--dir", dir, "--audit", audit, "--output", "json")
	if err != nil {
		return nil, err
	}
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.Join(addresses, "\n")), &out, &said
	if err := start(cmd); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
		select {
		case <-ended:
		case <-time.After(moveEndWithin):
			_ = cmd.Process.Kill()
		}
	})
	err = cmd.Wait()
	close(ended)
	stop()
	list, perr := drill.ParseUserMoves(out.Bytes())
	if perr != nil {
		return nil, errors.Join(context.Cause(ctx), fmt.Errorf("postern directory user move: %w: %s", errors.Join(err, perr), strings.TrimSpace(said.String())))
	}
	return list, context.Cause(ctx) // those who are not moved say so
}

// MoveUsers runs the tool on this machine.
func (t *devTarget) MoveUsers(ctx context.Context, addresses []string, to, untold string) ([]drill.UserMove, error) {
	file, err := clusterfile.Read(t.dir)
	if err != nil {
		return nil, err
	}
	command := func(program string, args ...string) (*exec.Cmd, error) { return exec.Command(program, args...), nil }
	return moveUsers(ctx, *file, filepath.Join(t.dir, "directory", "audit.log"), untold, addresses, to, command, (*exec.Cmd).Start)
}

// MoveUsers runs the tool where the directory is.
func (t *labTarget) MoveUsers(ctx context.Context, addresses []string, to, untold string) ([]drill.UserMove, error) {
	d := t.Directory()
	file := clusterfile.File{Domain: d.Domain, Directory: clusterfile.Directory{URL: d.URL, Base: d.Base, BindDN: d.BindDN, Password: d.Password}}
	for _, n := range t.Nodes() {
		if n.Role == drill.RoleRelay {
			file.Relays = append(file.Relays, clusterfile.Relay{Name: n.Name, Admin: t.Socket(n.Name)})
			continue
		}
		i := slices.IndexFunc(file.Pairs, func(p clusterfile.Pair) bool { return p.Name == n.Pair })
		if i < 0 {
			i, file.Pairs = len(file.Pairs), append(file.Pairs, clusterfile.Pair{Name: n.Pair})
		}
		role := clusterfile.RoleData
		if n.Role == drill.RoleWitness {
			role = clusterfile.RoleWitness
		}
		file.Pairs[i].Nodes = append(file.Pairs[i].Nodes, clusterfile.Node{Name: n.Name, Role: role, Admin: t.Socket(n.Name)})
	}
	return moveUsers(ctx, file, "none", untold, addresses, to, t.Manage, t.Spawn)
}

var _, _ drill.Mover = (*devTarget)(nil), (*labTarget)(nil)

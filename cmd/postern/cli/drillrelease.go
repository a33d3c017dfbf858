package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/ha/drill"
)

// certs are those of a development cluster.
func (t *devTarget) certs() drill.Certs {
	return drill.Certs{CA: filepath.Join(t.dir, "ca"), Node: func(node string) string { return filepath.Join(t.dir, node, "tls") }}
}

// tierOf is the tier of an upgrade that nodes of a role belong to.
var tierOf = map[string]string{drill.RoleRelay: fleet.Relay, drill.RoleData: fleet.Backend, drill.RoleWitness: fleet.Witness}

// programs are the folders of the programs that nodes of a role run.
func (t *devTarget) programs(role string) (folders []string, err error) {
	for _, n := range t.nodes {
		if n.Role != role {
			continue
		}
		pid, err := t.pid(n.Name)
		if err != nil {
			return nil, err
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			return nil, fmt.Errorf("the program of %s: %w", n.Name, err)
		}
		folders = append(folders, filepath.Dir(exe))
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("no node is a %s", role)
	}
	return folders, nil
}

// upgrade takes the nodes of a role to the other release, as postern upgrade run
// does.
func (t *devTarget) upgrade(ctx context.Context, role string) error {
	was, err := t.programs(role)
	if err != nil {
		return err
	}
	t.own[role] = was[0]
	return t.goOver(ctx, role, t.other, false)
}

// rollback takes them back, as postern upgrade rollback does.
func (t *devTarget) rollback(ctx context.Context, role string) error {
	if t.own[role] == "" {
		return nil
	}
	return t.goOver(ctx, role, t.own[role], true)
}

// drainWithin is short: an IMAP session that goes on has to begin again, which is
// what the user at work measures.
const drainWithin = 2 * time.Second

func (t *devTarget) goOver(ctx context.Context, role, binaries string, back bool) error {
	f, err := fleet.Open(ctx, fleet.Target{Dir: t.dir, Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer f.Close()
	a := &app{}
	a.target.dir = t.dir
	u := &upgrade{tier: tierOf[role], order: fleet.BackendsFirst, binaries: binaries}
	p, err := a.plan(ctx, f, u, back)
	if err != nil {
		return err
	}
	o := fleet.UpgradeOptions{
		DrainFor: drainWithin, ProbeFor: time.Minute, SettleFor: time.Minute, MaxLag: 1000, MaxElections: 5, MaxQueueAge: 10 * time.Minute, MaxErrors: 0.5,
		Say: func(string, ...any) {},
	}
	if o.Replace, err = a.replacer(u); err != nil {
		return err
	}
	return f.RunUpgrade(ctx, p, o)
}

// seeRelease looks at the programs that run.
func (t *devTarget) seeRelease(role string) (string, error) {
	folders, err := t.programs(role)
	if err != nil {
		return "", err
	}
	want, err := filepath.EvalSymlinks(t.other)
	if err != nil {
		return "", err
	}
	for _, f := range folders {
		if f != want {
			return "", fmt.Errorf("a %s runs a program of %s", role, f)
		}
	}
	return fmt.Sprintf("%d processes run programs of %s", len(folders), want), nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/ha/drill/netns"
)

// certs are those of a development cluster.
func (t *devTarget) certs() drill.Certs {
	return drill.Certs{CA: filepath.Join(t.dir, "ca"), Node: func(node string) string { return filepath.Join(t.dir, node, "tls") }}
}

// tierOf is the tier of an upgrade that nodes of a role belong to.
var tierOf = map[string]string{drill.RoleRelay: fleet.Relay, drill.RoleData: fleet.Backend, drill.RoleWitness: fleet.Witness}

// releases takes the nodes of a cluster to another release and back, by the steps of
// postern upgrade.
type releases struct {
	other string            // folder with the programs of the other release
	own   map[string]string // by role, that of the programs before an upgrade

	nodes   func() []drill.Node
	pid     func(node string) (int, error)
	fleet   func(ctx context.Context) (*fleet.Fleet, func(), error)
	replace func(ctx context.Context, node, folder string) error
}

// programs are the folders of the programs that nodes of a role run.
func (r *releases) programs(role string) (folders []string, err error) {
	for _, n := range r.nodes() {
		if n.Role != role {
			continue
		}
		pid, err := r.pid(n.Name)
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

// can says why there is no upgrade.
func (r *releases) can() error {
	if r.other == "" {
		return errors.New("no other release is named: --other DIR")
	}
	return nil
}

// upgrade takes the nodes of a role to the other release, as postern upgrade run
// does.
func (r *releases) upgrade(ctx context.Context, role string) error {
	was, err := r.programs(role)
	if err != nil {
		return err
	}
	r.own[role] = was[0]
	return r.goOver(ctx, role, r.other, false)
}

// rollback takes them back, as postern upgrade rollback does.
func (r *releases) rollback(ctx context.Context, role string) error {
	if r.own[role] == "" {
		return nil
	}
	return r.goOver(ctx, role, r.own[role], true)
}

// drainWithin is short: an IMAP session that goes on has to begin again, which is
// what the user at work measures.
const drainWithin = 2 * time.Second

func (r *releases) goOver(ctx context.Context, role, folder string, back bool) error {
	f, done, err := r.fleet(ctx)
	if err != nil {
		return err
	}
	defer done()
	if folder, err = filepath.Abs(folder); err != nil {
		return err
	}
	p, err := new(app).plan(ctx, f, &upgrade{tier: tierOf[role], order: fleet.BackendsFirst, binaries: folder}, back)
	if err != nil {
		return err
	}
	return f.RunUpgrade(ctx, p, fleet.UpgradeOptions{
		DrainFor: drainWithin, ProbeFor: time.Minute, SettleFor: time.Minute, MaxLag: 1000, MaxElections: 5, MaxQueueAge: 10 * time.Minute, MaxErrors: 0.5,
		Say:     func(string, ...any) {},
		Replace: func(ctx context.Context, s fleet.UpgradeStep) error { return r.replace(ctx, s.Node, folder) },
	})
}

// see looks at the programs that run.
func (r *releases) see(role string) (string, error) {
	folders, err := r.programs(role)
	if err != nil {
		return "", err
	}
	want, err := filepath.EvalSymlinks(r.other)
	if err == nil {
		want, err = filepath.Abs(want)
	}
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

// releasesOf those of a development cluster.
func (t *devTarget) releasesOf(other string) *releases {
	return &releases{
		other: other, own: map[string]string{}, nodes: t.Nodes, pid: t.pid,
		fleet: func(ctx context.Context) (*fleet.Fleet, func(), error) {
			f, err := fleet.Open(ctx, fleet.Target{Dir: t.dir, Timeout: 5 * time.Second})
			if err != nil {
				return nil, nil, err
			}
			return f, f.Close, nil
		},
		replace: func(ctx context.Context, node, folder string) error {
			return replaceDev(ctx, t.dir, node, folder)
		},
	}
}

// labTarget is a cluster in namespaces that can go to another release, and whose
// users can go to another pair.
type labTarget struct {
	*netns.Lab
	releases *releases
}

func newLabTarget(lab *netns.Lab, other string) *labTarget {
	return &labTarget{lab, &releases{
		other: other, own: map[string]string{}, nodes: lab.Nodes, pid: lab.PID,
		fleet: func(context.Context) (*fleet.Fleet, func(), error) {
			var members []fleet.Member
			for _, n := range lab.Nodes() {
				members = append(members, fleet.Member{Name: n.Name, Role: tierOf[n.Role], Pair: n.Pair, Client: n.Admin})
			}
			dial := func(ctx context.Context, _, addr string) (net.Conn, error) { return lab.Dial(ctx, addr) }
			return fleet.Of(members, dial, 5*time.Second), func() {}, nil // the clients are the cluster's
		},
		replace: func(_ context.Context, node, folder string) error { return lab.Replace(node, folder) },
	}}
}

func (t *labTarget) Can(k drill.Kind) error {
	if k == drill.Upgrade || k == drill.Rollback {
		return t.releases.can()
	}
	if k == drill.MoveUsers {
		return nil
	}
	return t.Lab.Can(k)
}

func (t *labTarget) Do(ctx context.Context, a drill.Action) error {
	switch a.Kind {
	case drill.Upgrade:
		return t.releases.upgrade(ctx, a.Node)
	case drill.Rollback:
		return t.releases.rollback(ctx, a.Node)
	}
	return t.Lab.Do(ctx, a)
}

func (t *labTarget) Real(ctx context.Context, a drill.Action) (string, error) {
	if a.Kind == drill.Upgrade {
		return t.releases.see(a.Node)
	}
	return t.Lab.Real(ctx, a)
}

var _ drill.Target = (*labTarget)(nil)

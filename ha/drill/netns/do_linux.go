package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/postern-mail/postern/ha/drill"
)

// Can allows everything that this cluster was made for.
func (lab *Lab) Can(k drill.Kind) error {
	switch {
	case k == drill.MoveUsers:
		return errors.New("no program is named that moves users")
	case k == drill.Upgrade || k == drill.Rollback:
		return errors.New("no other release is named: --other DIR")
	case k == drill.SkewClock || k == drill.SetClock:
		if _, err := os.Stat(filepath.Join(lab.o.Bin, adjustable)); err != nil {
			return errors.New("the clock of these programs cannot be set: integration/tools/skewclock builds some")
		}
	case (k == drill.FillDisk || k == drill.FreeDisk) && lab.o.Disk != SmallDisk:
		return errors.New("the disks of this cluster are too large to be filled")
	case (k == drill.LimitMemory || k == drill.FreeMemory) && lab.memory == nil:
		return errors.New("the memory of these nodes is the host's")
	case slices.Contains(diskKinds, k) && lab.o.Disk != OwnDisk:
		return errors.New("the disks of this cluster are the host's")
	}
	return nil
}

// Replace stops the program of a node and starts the one of the same name in a
// folder.
func (lab *Lab) Replace(node, folder string) error {
	p := lab.procs[node]
	if p == nil {
		return fmt.Errorf("no node %q", node)
	}
	if err := p.stop(syscall.SIGTERM); err != nil {
		return err
	}
	p.mu.Lock()
	p.bin = filepath.Join(folder, filepath.Base(p.bin))
	p.mu.Unlock()
	return p.start()
}

// PID is the process of a node.
func (lab *Lab) PID(node string) (int, error) {
	p := lab.procs[node]
	if p == nil {
		return 0, fmt.Errorf("no node %q", node)
	}
	return p.pid(), nil
}

// Do makes a fault or takes it back.
func (lab *Lab) Do(ctx context.Context, a drill.Action) error {
	p := lab.procs[a.Node]
	if p == nil && a.Node != "" {
		return fmt.Errorf("no node %q", a.Node)
	}
	switch a.Kind {
	case drill.Kill:
		return p.stop(syscall.SIGKILL)
	case drill.Stop:
		return p.stop(syscall.SIGTERM)
	case drill.Start:
		return p.start()
	case drill.Pause:
		return p.signal(syscall.SIGSTOP)
	case drill.Resume:
		return p.signal(syscall.SIGCONT)
	case drill.Cut, drill.CutOneWay:
		return lab.cut(ctx, a)
	case drill.Vanish:
		return lab.loses(ctx, a.Node, "tcp sport { "+strings.Trim(strings.ReplaceAll(fmt.Sprint(a.Ports), " ", ", "), "[]")+" }")
	case drill.Mend, drill.DirectoryOn, drill.DNSOn, drill.GossipOn:
		return lab.mend(ctx)
	case drill.DirectoryOff:
		return lab.loses(ctx, directoryHost, port(portLDAP))
	case drill.DNSOff:
		return lab.loses(ctx, directoryHost, port(portDNS))
	case drill.GossipOff:
		var errs []error
		for _, h := range lab.gossips(a.Node) {
			errs = append(errs, lab.loses(ctx, h, port(portGossip)))
		}
		return errors.Join(errs...)
	case drill.FillDisk:
		return lab.fill(a.Node)
	case drill.FreeDisk:
		return os.Remove(lab.ballast(a.Node))
	case drill.SkewClock:
		return lab.setClock(a.Node, a.By)
	case drill.SetClock:
		return lab.setClock(a.Node, 0)
	case drill.ExpireCert:
		return lab.certs().Renew(a.Node, drill.LastsFor)
	case drill.RenewCert:
		return lab.certs().Renew(a.Node, 0)
	case drill.SlowDisk, drill.ReadOnlyDisk, drill.FailDisk, drill.HangDisk, drill.PowerCut, drill.MendDisk:
		return lab.disk(ctx, a)
	case drill.LimitMemory:
		return lab.limitMemory(ctx, a.Node)
	case drill.FreeMemory:
		return lab.freeMemory(a.Node)
	}
	return fmt.Errorf("%s is not possible here", a.Kind)
}

// gossips are the nodes that GossipOff is for: one, or all for "".
func (lab *Lab) gossips(node string) []string {
	if node != "" {
		return []string{node}
	}
	return lab.l.hosts()
}

// loses makes packets that match vanish at host.
func (lab *Lab) loses(ctx context.Context, host string, match ...string) error {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	lab.cuts[host] = true
	return lab.f.cut(ctx, host, match)
}

// port matches what is sent to a port.
func port(n int) string { return fmt.Sprintf("meta l4proto { tcp, udp } th dport %d", n) }

func (lab *Lab) cut(ctx context.Context, a drill.Action) error {
	for _, p := range a.Peers {
		if lab.procs[p] == nil {
			return fmt.Errorf("no node %q", p)
		}
	}
	errs := []error{lab.loses(ctx, a.Node, lab.f.from(a.Peers...))}
	if a.Kind == drill.Cut {
		for _, p := range a.Peers {
			errs = append(errs, lab.loses(ctx, p, lab.f.from(a.Node)))
		}
	}
	return errors.Join(errs...)
}

func (lab *Lab) mend(ctx context.Context) error {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	var errs []error
	for host := range lab.cuts {
		if err := lab.f.mend(ctx, host); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(lab.cuts, host)
	}
	return errors.Join(errs...)
}

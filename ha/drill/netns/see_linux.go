package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/ha/drill"
)

func (lab *Lab) ballast(host string) string { return lab.l.file(host, "ballast") }

// fill writes until the small disk of a node has no room.
func (lab *Lab) fill(host string) error {
	if err := lab.Can(drill.FillDisk); err != nil {
		return err
	}
	f, err := os.OpenFile(lab.ballast(host), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return err
		}
	}
	return nil
}

// Real looks for a fault: at processes, at what datagrams arrive, at what rules
// have dropped, at the room that is left.
func (lab *Lab) Real(ctx context.Context, a drill.Action) (string, error) {
	p := lab.procs[a.Node]
	switch a.Kind {
	case drill.Kill, drill.Stop, drill.PowerCut:
		if err := syscall.Kill(p.pid(), 0); !errors.Is(err, syscall.ESRCH) {
			return "", fmt.Errorf("process %d of %s is still there", p.pid(), a.Node)
		}
		if a.Kind == drill.PowerCut {
			return lab.seeDisk(a)
		}
		return fmt.Sprintf("process %d is gone", p.pid()), nil
	case drill.Pause:
		state, err := drill.ProcessState(p.pid())
		if err != nil {
			return "", err
		}
		if state != "T" {
			return "", fmt.Errorf("process %d of %s is in state %s", p.pid(), a.Node, state)
		}
		return fmt.Sprintf("process %d is stopped", p.pid()), nil
	case drill.Cut, drill.CutOneWay:
		return lab.seeCut(ctx, a)
	case drill.Vanish:
		n, err := lab.f.dropped(ctx, a.Node)
		if err == nil && n < len(a.Ports) {
			err = fmt.Errorf("%d packets to %s have been dropped", n, a.Node)
		}
		return fmt.Sprintf("%d packets to %s have been dropped", n, a.Node), err
	case drill.DirectoryOff:
		return drill.DirectorySilent(ctx, at(lab.l.addr[directoryHost], portLDAP), lab.Dial)
	case drill.DNSOff:
		return lab.seeDNS(ctx)
	case drill.GossipOff:
		return lab.seeGossip(ctx, a.Node)
	case drill.LimitMemory:
		return lab.seeMemory(a.Node)
	case drill.SlowDisk, drill.ReadOnlyDisk, drill.FailDisk, drill.HangDisk:
		return lab.seeDisk(a)
	case drill.FillDisk:
		var st unix.Statfs_t
		if err := unix.Statfs(lab.l.file(a.Node), &st); err != nil {
			return "", err
		}
		if room := st.Bavail * uint64(st.Bsize); room > 64<<10 {
			return "", fmt.Errorf("the disk of %s has room for %d octets", a.Node, room)
		}
		return "the file system has no room", nil
	case drill.Drain:
		return "asked by the admin API", nil
	}
	return "", fmt.Errorf("%s cannot be seen here", a.Kind)
}

// seeCut wants packets of the nodes themselves to have been dropped, and sends
// datagrams each way.
func (lab *Lab) seeCut(ctx context.Context, a drill.Action) (string, error) {
	n, err := lab.f.dropped(ctx, a.Node)
	if err != nil {
		return "", err
	}
	if n == 0 { // looked at before any datagram of ours
		return "", fmt.Errorf("no packet to %s has been dropped", a.Node)
	}
	for _, peer := range a.Peers {
		in, err := lab.f.reaches(ctx, peer, a.Node)
		if err != nil {
			return "", err
		}
		if in {
			return "", fmt.Errorf("%s still hears %s", a.Node, peer)
		}
		// From the data zone to the dmz the firewall lets no datagram to this port
		// pass at any time, so only neighbours can be asked the other way.
		if !lab.neighbours(a.Node, peer) {
			continue
		}
		out, err := lab.f.reaches(ctx, a.Node, peer)
		if err != nil {
			return "", err
		}
		if want := a.Kind == drill.CutOneWay; out != want {
			return "", fmt.Errorf("%s hears %s: %v, want %v", peer, a.Node, out, want)
		}
	}
	how := "nor is it heard"
	if a.Kind == drill.CutOneWay {
		how = "and they hear it"
	}
	return fmt.Sprintf("%s hears none of %d nodes %s; %d packets to it have been dropped", a.Node, len(a.Peers), how, n), nil
}

// neighbours reports whether two hosts are in the same zone.
func (lab *Lab) neighbours(a, b string) bool {
	zoneOf := func(host string) string { ip := lab.f.hosts[host]; return ip[:len(data.net)] }
	return zoneOf(a) == zoneOf(b)
}

// seeDNS wants questions of the relays to have been dropped, and asks itself.
func (lab *Lab) seeDNS(ctx context.Context) (string, error) {
	n, err := lab.f.dropped(ctx, directoryHost)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", errors.New("no relay has asked")
	}
	if err := drill.DNSSilent(ctx, at(lab.l.addr[directoryHost], portDNS), func(ctx context.Context, addr string) (net.Conn, error) {
		return dial(ctx, lab.f.ns(worldHost), "udp4", addr)
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf("DNS gives no answer; %d packets to it have been dropped", n), nil
}

// seeGossip wants gossip to have been dropped at a node, or for "" at every one.
func (lab *Lab) seeGossip(ctx context.Context, node string) (string, error) {
	sum := 0
	hosts := lab.gossips(node)
	for _, h := range hosts {
		n, err := lab.f.dropped(ctx, h)
		if err != nil {
			return "", err
		}
		if n == 0 {
			return "", fmt.Errorf("no gossip to %s has been dropped", h)
		}
		sum += n
	}
	return fmt.Sprintf("%d packets of gossip have been dropped, some at each of %d nodes", sum, len(hosts)), nil
}

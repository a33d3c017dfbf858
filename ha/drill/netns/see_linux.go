package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/ha/drill"
)

func (lab *Lab) ballast(host string) string { return filepath.Join(lab.l.nodeDir(host), "ballast") }

// fill writes until the small disk of a node has no room.
func (lab *Lab) fill(host string) error {
	if !lab.o.SmallDisk {
		return errors.New("the disks of this cluster are the host's")
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
	case drill.Kill, drill.Stop:
		if err := syscall.Kill(p.pid(), 0); !errors.Is(err, syscall.ESRCH) {
			return "", fmt.Errorf("process %d of %s is still there", p.pid(), a.Node)
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
	case drill.DirectoryOff:
		return drill.DirectorySilent(ctx, at(lab.l.addr[directoryHost], portLDAP), lab.Dial)
	case drill.FillDisk:
		var st unix.Statfs_t
		if err := unix.Statfs(lab.l.nodeDir(a.Node), &st); err != nil {
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

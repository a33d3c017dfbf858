// Package group turns the configuration of a raft group into what packages
// replica and witness want, for the two daemons that hold members of groups.
package group

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Member describes the member of g that node is when the group is made. Port,
// network and Fatal are the caller's to fill in.
func Member(node string, g *config.Group, r *config.Raft, log *slog.Logger) (voter.Config, error) {
	c := describe(g, r, log)
	for _, m := range g.Members {
		c.Peers = append(c.Peers, voter.Peer{ID: m.ID, Name: m.Node, Addr: m.Addr, Witness: m.Witness})
		if m.Node == node {
			c.ID = m.ID
		}
	}
	if c.ID == "" {
		return c, fmt.Errorf("pair %s: node %s is not among its members", g.Pair, node)
	}
	return c, nil
}

// describe is what all members of a group on this node have in common.
func describe(g *config.Group, r *config.Raft, log *slog.Logger) voter.Config {
	return voter.Config{
		Dir: g.Dir, Pair: g.Pair, SegmentSize: int64(r.SegmentSize), CacheBytes: int64(r.EntryCache),
		Timings: voter.Timings{Heartbeat: r.HeartbeatTimeout, Election: r.HeartbeatTimeout},
		Log:     log,
	}
}

// OpenPort listens for the members of the other nodes' groups.
func OpenPort(r *config.Raft, store *tlsconf.Store, log *slog.Logger) (*raftnet.Port, error) {
	l, err := net.Listen("tcp", r.Listen)
	if err != nil {
		return nil, fmt.Errorf("raft: %w", err)
	}
	p, err := raftnet.NewPort(l, store.Server(tlsconf.Backend, tlsconf.Witness), Authorize, log)
	if err != nil {
		l.Close()
		return nil, err
	}
	return p, nil
}

// Client is for connections to members on other nodes.
func Client(store *tlsconf.Store) *tls.Config {
	return store.Client("", tlsconf.Backend, tlsconf.Witness)
}

// Authorize accepts the certificates of nodes that hold members of groups.
func Authorize(cs tls.ConnectionState) error {
	id, err := tlsconf.Peer(&cs)
	if err != nil {
		return err
	}
	if !id.Has(tlsconf.Backend, tlsconf.Witness) {
		return fmt.Errorf("node %s holds no member of a pair", id.Node)
	}
	return nil
}

// NodeOf is the node that a certificate is for.
func NodeOf(cs tls.ConnectionState) (string, error) {
	id, err := tlsconf.Peer(&cs)
	return id.Node, err
}

// DirSize is how many octets the files below dir take.
func DirSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// MakeDir makes the directory that holds the group's.
func MakeDir(g *config.Group) error { return os.MkdirAll(filepath.Dir(g.Dir), 0o700) }

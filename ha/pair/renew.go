package pair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/ha/replica/raftnet"
)

// renew has the group take this member in the place of the one that was here.
// Only the replica that serves does so; it is asked in the name of the old one,
// which is still a member.
func (p *Puller) renew(ctx context.Context) error {
	m := p.marker()
	as, err := raftnet.New(raftnet.Config{
		Pair: m.Pair, ID: m.Instead, Addr: m.Self.Addr, TLS: p.cfg.ClientTLS, Authorize: p.cfg.Authorize,
		Member: func(string) bool { return false }, Resolve: func(string) string { return "" },
		Log: p.cfg.Log, Dial: p.cfg.Dial, Passive: true, Speaks: p.speaks,
	})
	if err != nil {
		return err
	}
	defer func() { _ = as.Close() }()
	var errs []error
	for _, peer := range m.Peers {
		if peer.Witness || peer.ID == m.Instead {
			continue
		}
		members, err := askRenew(ctx, as, peer, m.Self)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", peer.Name, err))
			continue
		}
		p.cfg.Log.Info("the group has taken this member in", "pair", m.Pair, "id", m.Self.ID, "instead of", m.Instead, "by", peer.Name)
		return p.mark(func(m *Marker) { m.Instead, m.Peers = "", members })
	}
	if len(errs) == 0 {
		return errors.New("pair: no data replica is known")
	}
	return errors.Join(errs...)
}

func askRenew(ctx context.Context, as *raftnet.Transport, peer, self Peer) ([]Peer, error) {
	st, err := as.Stream(ctx, peer.ID, peer.Addr)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	if err := sendJSON(st, &request{Version: protocol, Op: opRenew, Self: &self}); err != nil {
		return nil, err
	}
	b, err := st.Receive(2 * renewTime)
	if err != nil {
		return nil, err
	}
	return parseRenewed(b)
}

// parseRenewed reads the members besides this one; there is at least one.
func parseRenewed(b []byte) ([]Peer, error) {
	var r renewed
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("pair: members: %w", err)
	}
	if r.Version != protocol || len(r.Members) == 0 || len(r.Members) > maxMembers {
		return nil, fmt.Errorf("pair: members of version %d, %d of them", r.Version, len(r.Members))
	}
	for _, m := range r.Members {
		if m.ID == "" || m.Addr == "" {
			return nil, fmt.Errorf("pair: member %q at %q", m.ID, m.Addr)
		}
	}
	return r.Members, nil
}

// maxMembers bounds a group.
const maxMembers = 64

package voter

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/seglog"
)

// ErrNoPeer: there is no other data replica to ask.
var ErrNoPeer = errors.New("no other data replica")

var _ raftnet.Giver = (*Voter)(nil)

// refusesData reports why a member is given nothing: mail goes from one data
// replica to another one only.
func (v *Voter) refusesData(from string) error {
	if v.role.Kind != manifest.Data {
		return errors.New("this member has no data")
	}
	p, ok := v.Peer(from)
	if !ok {
		p, ok = v.toldOf(from)
	}
	if !ok || p.Witness {
		return fmt.Errorf("member %s is no data replica", from)
	}
	return nil
}

// Entry implements raftnet.Giver.
func (v *Voter) Entry(from string, index uint64) ([]byte, error) {
	if err := v.refusesData(from); err != nil {
		return nil, err
	}
	b, err := v.log.ExportEntry(index, nil)
	switch {
	case seglog.Gone(err):
		err = fmt.Errorf("%w: %w", raftnet.ErrGone, err)
	case errors.Is(err, seglog.ErrCorrupt):
		err = fmt.Errorf("%w: %w", raftnet.ErrDamaged, err)
	case err != nil:
		err = fmt.Errorf("%w: %w", raftnet.ErrLater, err)
	}
	return b, err
}

// Mark implements raftnet.Giver.
func (v *Voter) Mark(from string) (index uint64, digest [16]byte, err error) {
	if err := v.refusesData(from); err != nil {
		return 0, digest, err
	}
	if v.cfg.Mark == nil {
		return 0, digest, errors.New("this member notes no digests")
	}
	index, digest = v.cfg.Mark()
	return index, digest, nil
}

// FetchEntry returns an entry of another data replica's log, in the form that
// seglog.Log.Repair takes and checks.
func (v *Voter) FetchEntry(ctx context.Context, index uint64) (b []byte, err error) {
	err = v.eachReplica(v.Others(), func(p Peer) (err error) {
		b, err = v.Net.Entry(ctx, p.ID, p.Addr, index)
		return err
	})
	return b, err
}

// FetchMark returns the digest that another data replica with a vote noted last,
// and the entry where it did.
func (v *Voter) FetchMark(ctx context.Context) (index uint64, digest [16]byte, err error) {
	err = v.eachReplica(v.OtherVoters(), func(p Peer) (err error) {
		index, digest, err = v.Net.Mark(ctx, p.ID, p.Addr)
		return err
	})
	return index, digest, err
}

// eachReplica asks data replicas until one answers.
func (v *Voter) eachReplica(peers []Peer, ask func(Peer) error) error {
	var errs []error
	for _, p := range peers {
		if p.Witness || p.ID == v.cfg.ID {
			continue
		}
		err := ask(p)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
	}
	if len(errs) == 0 {
		return ErrNoPeer
	}
	return errors.Join(errs...)
}

// fetchAtOpen asks for an entry while the log is being opened, when nothing
// listens yet.
func (v *Voter) fetchAtOpen(index uint64) (b []byte, err error) {
	c := &v.cfg
	net, err := raftnet.New(raftnet.Config{
		Pair: c.Pair, ID: c.ID, Addr: v.peer(c.ID).Addr, TLS: c.ClientTLS, Authorize: c.Authorize,
		Resolve: func(id string) string { return v.peer(id).Addr }, Log: c.Log, Dial: c.Dial, Speaks: v.speaks, Passive: true,
	})
	if err != nil {
		return nil, err
	}
	defer net.Close()
	err = v.eachReplica(c.Peers, func(p Peer) (err error) {
		b, err = net.Entry(context.Background(), p.ID, p.Addr, index) // askTime ends it
		return err
	})
	return b, err
}

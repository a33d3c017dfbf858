package voter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/replica/raftnet"
)

// ErrInUse: the member was in the group already, and its directory is gone.
var ErrInUse = errors.New("the group has had this member before")

// askInUse is how long the others may take to say so.
const askInUse = 2 * time.Second

// InUse asks the others, before a member's directory is made for the first time,
// whether it is the first time: a member that does not remember what it has
// acknowledged must not vote (rule W6). The group has had it if it is no member
// any more, or if the floor has passed its first entry, for which every data
// replica has to have applied it. Those that do not answer say nothing. A
// directory that is there already is no concern of this.
func InUse(ctx context.Context, cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if _, err := readID(cfg.FS, cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		return nil // Create looks at it
	}
	v := &Voter{cfg: cfg}
	net, err := raftnet.New(raftnet.Config{
		Pair: cfg.Pair, ID: cfg.ID, Addr: v.peer(cfg.ID).Addr, TLS: cfg.ClientTLS, Authorize: cfg.Authorize,
		Resolve: func(id string) string { return v.peer(id).Addr }, Log: cfg.Log, Dial: cfg.Dial, Passive: true,
	})
	if err != nil {
		return err
	}
	defer net.Close()
	ctx, cancel := context.WithTimeout(ctx, askInUse)
	defer cancel()
	said := make([]error, len(cfg.Peers))
	var wg sync.WaitGroup
	for i, p := range cfg.Peers {
		if p.ID == cfg.ID {
			continue
		}
		wg.Go(func() {
			s, err := net.Status(ctx, p.ID, p.Addr)
			switch {
			case raftnet.NoMember(err):
				said[i] = fmt.Errorf("%s: %s was taken out of it: %w", p.Name, cfg.ID, ErrInUse)
			case err == nil && s.Floor > 1 && !v.peer(cfg.ID).Witness:
				said[i] = fmt.Errorf("%s: every data replica has applied entry %d: %w", p.Name, s.Floor, ErrInUse)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(said...); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	return nil
}

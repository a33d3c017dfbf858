package voter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/shared/fsx"
)

// givenUpName is a file in a member's directory: the ids, a line each, of members
// that were believed lost for good when the group went on without them
// (RecoverAlone). Its own is in it if the group went on without this one.
const givenUpName = "given-up"

// maxGivenUp bounds the file.
const maxGivenUp = 64 << 10

// ErrGivenUp: the group went on without this member, which was believed lost. Two
// such members are a majority of the group that they knew: they must not take
// part any more, or there would be two histories.
var ErrGivenUp = errors.New("member was given up as lost, and the group went on without it")

func readGivenUp(fsys fsx.FS, dir string) ([]string, error) {
	data, err := fsx.ReadFile(fsys, filepath.Join(dir, givenUpName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("voter: %w", err)
	case len(data) > maxGivenUp:
		return nil, fmt.Errorf("voter: %s has %d octets", filepath.Join(dir, givenUpName), len(data))
	}
	return strings.Fields(string(data)), nil
}

// giveUp notes durably that members are given up.
func (v *Voter) giveUp(ids ...string) error {
	list := slices.Clone(v.lost)
	for _, id := range ids {
		if !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	if len(list) == len(v.lost) {
		return nil
	}
	data := []byte(strings.Join(list, "\n") + "\n")
	if err := fsx.WriteFileAtomic(v.cfg.FS, filepath.Join(v.cfg.Dir, givenUpName), data); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	return nil
}

// givenUp reports whether a member was given up by this one.
func (v *Voter) givenUp(id string) bool { return slices.Contains(v.lost, id) }

// askGivenUp asks the members that this one knows whether they have given it up.
// If one has, this member ends and does not begin again.
func (v *Voter) askGivenUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, learnEvery)
	defer cancel()
	ask := v.Others()
	for _, p := range v.cfg.Peers {
		if p.ID != v.cfg.ID && !slices.ContainsFunc(ask, func(o Peer) bool { return o.ID == p.ID }) {
			ask = append(ask, p)
		}
	}
	by := make([]string, len(ask))
	var wg sync.WaitGroup
	for i, p := range ask {
		wg.Go(func() {
			if _, _, err := v.Net.Servers(ctx, p.ID, p.Addr); raftnet.GivenUp(err) {
				by[i] = p.Name
			}
		})
	}
	wg.Wait()
	for _, name := range by {
		if name != "" {
			v.Fatal(errors.Join(fmt.Errorf("voter: %s says: %w", name, ErrGivenUp), v.giveUp(v.cfg.ID)))
			return
		}
	}
}

package pair

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/fsx"
)

// Peer is a member of a group.
type Peer = voter.Peer

// ErrInUse: the directory belongs to a member already.
var ErrInUse = errors.New("directory belongs to a member")

const markerVersion = 1

// Marker is what the file "seeding" of a directory says.
type Marker struct {
	Version int    `json:"version"`
	Pair    string `json:"pair"`
	Self    Peer   `json:"self"`
	Peers   []Peer `json:"peers"`             // that were members when it was made
	Aside   string `json:"aside,omitempty"`   // directory of the member before, removed at the end
	Instead string `json:"instead,omitempty"` // id of the member whose place it has yet to be given
	Session string `json:"session,omitempty"` // of the giver, "" before the first
	From    string `json:"from,omitempty"`    // id of the giver
	Applied uint64 `json:"applied"`           // by the state that is given, at least
	Done    int    `json:"done"`              // files that are durable
	Offset  int64  `json:"offset"`            // of the file after those, durable
}

func (m *Marker) kind() manifest.Kind {
	if m.Self.Witness {
		return manifest.Witness
	}
	return manifest.Data
}

// ReadMarker returns the marker of a directory; fs.ErrNotExist without one.
func ReadMarker(fsys fsx.FS, dir string) (*Marker, error) {
	data, err := fsx.ReadFile(fsys, filepath.Join(dir, voter.SeedingName))
	if err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	m := new(Marker)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("pair: %s: %w", filepath.Join(dir, voter.SeedingName), err)
	}
	if m.Version != markerVersion {
		return nil, fmt.Errorf("pair: marker of version %d, this program reads %d", m.Version, markerVersion)
	}
	if m.Pair == "" || m.Self.ID == "" {
		return nil, errors.New("pair: marker without a pair or an id")
	}
	return m, nil
}

// peersName is the file with the members that were there when a directory was
// made. It stays: until the new member has caught up it knows the others by it.
const peersName = "peers"

// ReadPeers returns the members that Join was told of, nil for a directory that
// it did not make.
func ReadPeers(fsys fsx.FS, dir string) ([]Peer, error) {
	data, err := fsx.ReadFile(fsys, filepath.Join(dir, peersName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var peers []Peer
	if err == nil {
		err = json.Unmarshal(data, &peers)
	}
	if err != nil {
		return nil, fmt.Errorf("pair: %s: %w", filepath.Join(dir, peersName), err)
	}
	return peers, nil
}

// Made is when the directory of a member was filled by a Puller; the zero time if
// it was not.
func Made(dir string) (time.Time, error) {
	info, err := os.Stat(filepath.Join(dir, peersName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("pair: %w", err)
	}
	return info.ModTime(), nil
}

func (m *Marker) writePeers(fsys fsx.FS, dir string) error {
	data, err := json.Marshal(m.Peers)
	if err != nil {
		return err
	}
	if err := fsx.WriteFileAtomic(fsys, filepath.Join(dir, peersName), append(data, '\n')); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	return nil
}

func (m *Marker) write(fsys fsx.FS, dir string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := fsx.WriteFileAtomic(fsys, filepath.Join(dir, voter.SeedingName), append(data, '\n')); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	return nil
}

// Join makes the directory of a new member, with a new id, to be filled by a
// Puller. self has no id yet; peers are the members of the group now; aside is
// the directory of the member that was here before, if any, to be removed when
// the new one is complete. A directory that Join made before keeps its id, and
// takes over the peers.
func Join(fsys fsx.FS, dir, pair string, self Peer, peers []Peer, aside string) (*Marker, error) {
	return join(fsys, dir, pair, self, peers, aside, "")
}

func join(fsys fsx.FS, dir, pair string, self Peer, peers []Peer, aside, instead string) (*Marker, error) {
	m, err := ReadMarker(fsys, dir)
	switch {
	case err == nil && m.Pair != pair:
		return nil, fmt.Errorf("pair: %s is of %s: %w", dir, m.Pair, ErrInUse)
	case err == nil:
		m.Peers, m.Self.Addr, m.Self.Name = peers, self.Addr, self.Name
		return m, m.write(fsys, dir)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if _, id, err := voter.ReadID(fsys, dir); err == nil {
		return nil, fmt.Errorf("pair: %s is of %s: %w", dir, id, ErrInUse)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := fsx.MkdirAllSync(fsys, dir, 0o700); err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	self.ID = voter.NewID()
	m = &Marker{Version: markerVersion, Pair: pair, Self: self, Peers: peers, Aside: aside, Instead: instead}
	if err := m.write(fsys, dir); err != nil {
		return nil, err
	}
	return m, voter.WriteID(fsys, dir, pair, self.ID)
}

// Renew is Join for a member that has to be seeded again and asks the group for
// that itself, under its old id: the Puller does so first.
func Renew(fsys fsx.FS, dir, pair string, self Peer, peers []Peer, aside, old string) (*Marker, error) {
	return join(fsys, dir, pair, self, peers, aside, old)
}

// PutAside renames the directory of a member that does not run and is no member
// any more, and returns its new name.
func PutAside(fsys fsx.FS, dir, id string) (string, error) {
	aside := dir + ".old-" + id
	if err := fsys.Rename(dir, aside); err != nil {
		return "", fmt.Errorf("pair: %w", err)
	}
	if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
		return "", fmt.Errorf("pair: %w", err)
	}
	return aside, nil
}

// removeAll removes what lies below name, and name. What is not there is no
// error.
func removeAll(fsys fsx.FS, name string) error {
	names, err := fsys.ReadDir(name)
	if err == nil {
		for _, n := range names {
			if err := removeAll(fsys, filepath.Join(name, n)); err != nil {
				return err
			}
		}
	}
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pair: %w", err)
	}
	return nil
}

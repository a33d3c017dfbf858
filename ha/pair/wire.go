package pair

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"strings"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
)

// Both ends speak in turns: the member asks by a JSON object, and gets one, or
// the pieces of a file. A piece is its CRC32C and its octets.
const (
	protocol  = 1
	pieceSize = 256 << 10
	turnSize  = 8 << 20 // octets asked for in one turn
	maxFiles  = 100_000
)

// The requests.
const (
	opHello = "hello" // begin, or go on with a session
	opGet   = "get"   // a part of a file
	opDone  = "done"  // the frozen copy is not needed any more
	opRenew = "renew" // take Self into the group in the place of the one that asks
)

// request is one turn of the member that asks.
type request struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
	Session string `json:"session,omitempty"`
	Witness bool   `json:"witness,omitempty"`
	File    int    `json:"file,omitempty"`
	Offset  int64  `json:"offset,omitempty"`
	Size    int64  `json:"size,omitempty"`
	Self    *Peer  `json:"self,omitempty"`
}

// renewed answers renew.
type renewed struct {
	Version int    `json:"version"`
	Members []Peer `json:"members"`
}

// offer answers hello.
type offer struct {
	Version int        `json:"version"`
	Session string     `json:"session"`
	Applied uint64     `json:"applied"` // by the state, at least
	Base    voter.Base `json:"base"`
	Files   []file     `json:"files"`
}

// file is one file of a frozen copy, by its path below the directory.
type file struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// Directories that are given.
const (
	metaDir = "meta"
	logDir  = "log"
)

// check refuses an offer that would lead out of the directory.
func (o *offer) check() error {
	if o.Version != protocol {
		return fmt.Errorf("pair: offer of version %d, this program reads %d", o.Version, protocol)
	}
	if o.Session == "" || len(o.Session) > 64 || len(o.Files) > maxFiles {
		return fmt.Errorf("pair: offer %q of %d files", o.Session, len(o.Files))
	}
	for i, f := range o.Files {
		dir, name := path.Split(f.Path)
		if path.Clean(f.Path) != f.Path || !strings.HasPrefix(dir, metaDir+"/") && dir != logDir+"/" || name == "" ||
			len(f.Path) > 512 || strings.ContainsAny(f.Path, "\\\x00") || f.Size < 0 {
			return fmt.Errorf("pair: offer of a file %q of %d octets", f.Path, f.Size)
		}
		if i > 0 && o.Files[i-1].Path >= f.Path {
			return fmt.Errorf("pair: offer is not in order at %q", f.Path)
		}
	}
	return nil
}

func (o *offer) total() (n int64) {
	for _, f := range o.Files {
		n += f.Size
	}
	return n
}

func parseOffer(b []byte) (*offer, error) {
	o := new(offer)
	if err := json.Unmarshal(b, o); err != nil {
		return nil, fmt.Errorf("pair: offer: %w", err)
	}
	return o, o.check()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errPiece = errors.New("pair: a piece has another checksum")

func sendPiece(s *raftnet.Stream, b []byte) error {
	var head [4]byte
	binary.LittleEndian.PutUint32(head[:], crc32.Checksum(b, castagnoli))
	return s.Send(head[:], b)
}

// parsePiece returns the octets of a piece, valid as long as b.
func parsePiece(b []byte) ([]byte, error) {
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return nil, errPiece
	}
	return b[4:], nil
}

func sendJSON(s *raftnet.Stream, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.Send(nil, b)
}

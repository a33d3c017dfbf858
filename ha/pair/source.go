package pair

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/fsx"
)

// SourceConfig is what a data replica gives from. The functions may be called
// from Serve on.
type SourceConfig struct {
	Dir string // of the group
	FS  fsx.FS // fsx.OS if nil
	// Checkpoint makes a consistent copy of the state in a directory that is not
	// there; what is in the state at the call is in it.
	Checkpoint func(dir string) error
	// Applied is the last entry in the state.
	Applied func() uint64
	// CopyLog puts the files of the log, up to now, into a directory.
	CopyLog func(dir string) (last uint64, err error)
	// Base is what raft begins with, as of now.
	Base func(witness bool) (voter.Base, error)

	// Renew takes self into the group in the place of the member from; it returns
	// the members. Nil: never.
	Renew func(ctx context.Context, from string, self Peer) ([]Peer, error)

	Rate int64         // octets a second for all that is given; 0: no limit
	Keep time.Duration // a frozen copy is kept after the last request; 1 h
	Log  *slog.Logger
}

// Source gives new members what they need.
type Source struct {
	cfg   SourceConfig
	limit *rate.Limiter

	mu     sync.Mutex // guards what follows and the directory of frozen copies
	frozen *frozen    // nil: none that is known
	timer  *time.Timer
	closed bool
}

// frozen is the copy that is being given.
type frozen struct {
	offer offer
	dir   string
	to    string // id of the member
	used  time.Time
	users int
}

// offerName is the file with the offer in a frozen copy; a copy without it is
// not complete. The member's id is in ownerName.
const (
	seedDir   = "seed"
	offerName = "offer.json"
)

// stored is the content of offerName.
type stored struct {
	To    string `json:"to"`
	Offer offer  `json:"offer"`
}

// silence is how long a member may ask nothing before its connection is given up.
// One that checks what it has fetched comes back, or needs nothing more.
const silence = 2 * time.Minute

// NewSource makes a source. Frozen copies that an earlier process left can be
// gone on with.
func NewSource(cfg SourceConfig) *Source {
	if cfg.FS == nil {
		cfg.FS = fsx.OS
	}
	if cfg.Keep == 0 {
		cfg.Keep = time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, limit: rate.NewLimiter(limitOf(cfg.Rate), pieceSize)}
	s.timer = time.AfterFunc(cfg.Keep, s.expire)
	return s
}

// SetRate makes n the octets that are given a second from now on; 0: no limit.
func (s *Source) SetRate(n int64) { s.limit.SetLimit(limitOf(n)) }

func limitOf(n int64) rate.Limit {
	if n <= 0 {
		return rate.Inf
	}
	return rate.Limit(n)
}

// Close stops the clock of the frozen copy. The copy stays.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.timer.Stop()
	return nil
}

// expire removes what nobody has asked for in a while.
func (s *Source) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if f := s.frozen; f != nil {
		if left := s.cfg.Keep - time.Since(f.used); left > 0 || f.users > 0 {
			s.timer.Reset(max(left, time.Second))
			return
		}
	}
	s.frozen = nil
	if err := removeAll(s.cfg.FS, filepath.Join(s.cfg.Dir, seedDir)); err != nil {
		s.cfg.Log.Warn("frozen copy not removed", "err", err)
	}
}

// Serve answers a member until the stream or ctx ends.
func (s *Source) Serve(ctx context.Context, from string, st *raftnet.Stream) error {
	var f *frozen
	defer func() { s.leave(f) }()
	for {
		b, err := st.Receive(silence)
		if err != nil {
			return err
		}
		var q request
		if err := json.Unmarshal(b, &q); err != nil {
			return errors.Join(err, st.Refuse(errors.New("malformed request")))
		}
		switch {
		case q.Version != protocol:
			err = fmt.Errorf("pair: request of version %d, this program reads %d", q.Version, protocol)
		case q.Op == opHello && q.Witness:
			err = s.giveBase(st)
		case q.Op == opRenew:
			err = s.renew(ctx, from, st, q.Self)
		case q.Op == opHello:
			s.leave(f)
			if f, err = s.enter(from, q.Session); err == nil {
				err = sendJSON(st, &f.offer)
			}
		case q.Op == opGet && f != nil:
			err = s.give(ctx, st, f, &q)
		case q.Op == opDone && f != nil:
			err = errors.Join(s.discard(f), sendJSON(st, struct{}{}))
		default:
			err = fmt.Errorf("pair: request %q is out of place", q.Op)
		}
		if err != nil {
			return errors.Join(err, st.Refuse(err))
		}
	}
}

// renewTime bounds one change of the group.
const renewTime = 10 * time.Second

func (s *Source) renew(ctx context.Context, from string, st *raftnet.Stream, self *Peer) error {
	if s.cfg.Renew == nil || self == nil || self.ID == "" || self.Addr == "" {
		return errors.New("pair: an operator has to replace this member")
	}
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	list, err := s.cfg.Renew(ctx, from, *self)
	if err != nil {
		return err
	}
	return sendJSON(st, &renewed{Version: protocol, Members: list})
}

func (s *Source) giveBase(st *raftnet.Stream) error {
	base, err := s.cfg.Base(true)
	if err != nil {
		return err
	}
	return sendJSON(st, &offer{Version: protocol, Session: "base", Base: base})
}

// enter finds the frozen copy of a session, or makes a new one.
func (s *Source) enter(from, session string) (*frozen, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("pair: this replica ends")
	}
	if s.frozen == nil {
		s.frozen = s.found(session)
	}
	f := s.frozen
	if f != nil && f.to != from && f.users > 0 {
		return nil, fmt.Errorf("pair: member %s is being seeded from here", f.to)
	}
	if f == nil || f.to != from || session == "" || f.offer.Session != session {
		var err error
		if f, err = s.freeze(from); err != nil {
			return nil, err
		}
		s.frozen = f
	}
	f.users++
	f.used = time.Now()
	return f, nil
}

func (s *Source) leave(f *frozen) {
	if f == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.users--
	f.used = time.Now()
	if !s.closed {
		s.timer.Reset(s.cfg.Keep)
	}
}

// found takes over a copy that an earlier process made. The caller holds mu.
func (s *Source) found(session string) *frozen {
	if session == "" || strings.ContainsAny(session, "/\\.") {
		return nil
	}
	dir := filepath.Join(s.cfg.Dir, seedDir, session)
	data, err := fsx.ReadFile(s.cfg.FS, filepath.Join(dir, offerName))
	var st stored
	if err != nil || json.Unmarshal(data, &st) != nil || st.Offer.check() != nil || st.Offer.Session != session {
		return nil
	}
	return &frozen{offer: st.Offer, dir: dir, to: st.To}
}

// freeze makes a new copy in the place of all others. The caller holds mu.
func (s *Source) freeze(to string) (*frozen, error) {
	fsys, top := s.cfg.FS, filepath.Join(s.cfg.Dir, seedDir)
	if err := removeAll(fsys, top); err != nil {
		return nil, err
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	f := &frozen{to: to}
	f.offer = offer{Version: protocol, Session: hex.EncodeToString(b[:])}
	f.dir = filepath.Join(top, f.offer.Session)
	if err := fsx.MkdirAllSync(fsys, f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	began := time.Now()
	// The note before the state, and the state before the log: see the package.
	var err error
	if f.offer.Base, err = s.cfg.Base(false); err != nil {
		return nil, err
	}
	f.offer.Applied = s.cfg.Applied()
	if err := s.cfg.Checkpoint(filepath.Join(f.dir, metaDir)); err != nil {
		return nil, err
	}
	last, err := s.cfg.CopyLog(filepath.Join(f.dir, logDir))
	if err != nil {
		return nil, err
	}
	for _, d := range []string{metaDir, logDir} {
		if f.offer.Files, err = list(fsys, f.dir, d, f.offer.Files); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(f.offer.Files, func(a, b file) int { return strings.Compare(a.Path, b.Path) })
	if err := f.offer.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(stored{to, f.offer})
	if err == nil {
		err = fsx.WriteFileAtomic(fsys, filepath.Join(f.dir, offerName), data)
	}
	if err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	s.cfg.Log.Info("copy frozen for a new member", "member", to, "applied", f.offer.Applied, "last", last,
		"files", len(f.offer.Files), "bytes", f.offer.total(), "took", time.Since(began))
	return f, nil
}

// list adds the files below a directory.
func list(fsys fsx.FS, root, dir string, files []file) ([]file, error) {
	names, err := fsys.ReadDir(filepath.Join(root, dir))
	if err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	for _, name := range names {
		p := path.Join(dir, name)
		if _, err := fsys.ReadDir(filepath.Join(root, p)); err == nil {
			if files, err = list(fsys, root, p, files); err != nil {
				return nil, err
			}
			continue
		}
		f, err := fsx.Open(fsys, filepath.Join(root, p))
		if err != nil {
			return nil, fmt.Errorf("pair: %w", err)
		}
		size, err := f.Size()
		_ = f.Close() // it was only looked at
		if err != nil {
			return nil, fmt.Errorf("pair: %w", err)
		}
		files = append(files, file{p, size})
	}
	return files, nil
}

// give sends a part of a file.
func (s *Source) give(ctx context.Context, st *raftnet.Stream, f *frozen, q *request) error {
	if q.File < 0 || q.File >= len(f.offer.Files) {
		return fmt.Errorf("pair: no file %d", q.File)
	}
	file := f.offer.Files[q.File]
	if q.Offset < 0 || q.Size <= 0 || q.Size > turnSize || q.Offset+q.Size > file.Size {
		return fmt.Errorf("pair: %d octets at %d of %s, which has %d", q.Size, q.Offset, file.Path, file.Size)
	}
	h, err := fsx.Open(s.cfg.FS, filepath.Join(f.dir, filepath.FromSlash(file.Path)))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("pair: the frozen copy is gone")
	}
	if err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	defer h.Close()
	buf := make([]byte, pieceSize)
	for off, end := q.Offset, q.Offset+q.Size; off < end; {
		b := buf[:min(int64(len(buf)), end-off)]
		if err := s.limit.WaitN(ctx, len(b)); err != nil {
			return err
		}
		if n, err := h.ReadAt(b, off); n < len(b) {
			return fmt.Errorf("pair: %s: %w", file.Path, err)
		}
		if err := sendPiece(st, b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// discard removes a copy that is not needed any more.
func (s *Source) discard(f *frozen) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == f {
		s.frozen = nil
	}
	return removeAll(s.cfg.FS, f.dir)
}

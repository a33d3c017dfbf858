package pair

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/fsx"
)

// PullerConfig is what a Puller needs to know. The network's part is as in
// voter.Config.
type PullerConfig struct {
	Dir       string // with a marker
	FS        fsx.FS
	Port      *raftnet.Port
	ClientTLS *tls.Config
	Authorize raftnet.Authorize
	NodeOf    func(tls.ConnectionState) (string, error)
	Dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	// Check reads a state that was fetched and compares it with its digest; nil:
	// it is not checked.
	Check func(dir string) error
	Log   *slog.Logger

	note  int64         // octets between two notes of how far it is; 0: 16 MB
	pause time.Duration // first pause after a failed attempt; 0: 200 ms
}

// Stages of a Puller.
const (
	Waiting  = "waiting"  // for a member that gives
	Fetching = "fetching" // files
	Checking = "checking" // what was fetched
	Complete = "complete"
)

// Progress is how far a Puller is.
type Progress struct {
	ID      string // of the new member
	Stage   string
	From    string // node that gives
	Files   int
	Bytes   int64 // durable or on the way
	Total   int64
	Applied uint64 // by the state that is given, at least
	Err     string // of the last attempt
	Began   time.Time
}

// Puller fills the directory of a new member.
type Puller struct {
	cfg PullerConfig
	net *raftnet.Transport

	mu       sync.Mutex // guards what follows
	progress Progress
	m        *Marker
}

// NewPuller reads the marker.
func NewPuller(cfg PullerConfig) (*Puller, error) {
	if cfg.FS == nil {
		cfg.FS = fsx.OS
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.note == 0 {
		cfg.note = 16 << 20
	}
	if cfg.pause == 0 {
		cfg.pause = 200 * time.Millisecond
	}
	m, err := ReadMarker(cfg.FS, cfg.Dir)
	if err != nil {
		return nil, err
	}
	p := &Puller{cfg: cfg, m: m}
	p.progress = Progress{ID: m.Self.ID, Stage: Waiting, Applied: m.Applied, Began: time.Now()}
	return p, nil
}

// Progress says how far it is.
func (p *Puller) Progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress
}

func (p *Puller) say(f func(*Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.progress)
}

// SetPeers replaces the members that are asked, also for the time after a
// restart.
func (p *Puller) SetPeers(peers []Peer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.m.Peers, p.m.Instead = peers, ""
	return p.m.write(p.cfg.FS, p.cfg.Dir)
}

// mark changes the marker, durably.
func (p *Puller) mark(f func(*Marker)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p.m)
	return p.m.write(p.cfg.FS, p.cfg.Dir)
}

func (p *Puller) marker() Marker {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.m
}

// Run returns nil when the directory is complete and its marker gone, and an
// error only when ctx has ended or the directory cannot be written.
func (p *Puller) Run(ctx context.Context) error {
	m := p.marker()
	if err := voter.WriteID(p.cfg.FS, p.cfg.Dir, m.Pair, m.Self.ID); err != nil {
		return err
	}
	if err := p.listen(m); err != nil {
		return err
	}
	defer func() { _ = p.net.Close() }()
	pause := p.cfg.pause
	for {
		err := p.attempt(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.say(func(g *Progress) { g.Err = err.Error() })
		p.cfg.Log.Info("not seeded yet; trying again", "pair", m.Pair, "err", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, 5*time.Second)
	}
	p.say(func(g *Progress) { g.Stage, g.Err = Complete, "" })
	p.cfg.Log.Info("member is complete", "pair", m.Pair, "id", m.Self.ID, "applied", p.marker().Applied)
	if aside := m.Aside; aside != "" {
		if err := removeAll(p.cfg.FS, aside); err != nil {
			p.cfg.Log.Warn("directory of the member before not removed", "dir", aside, "err", err)
		}
	}
	return nil
}

// listen answers the questions of the others, so that the floor knows of this
// member, and makes connections possible.
func (p *Puller) listen(m Marker) (err error) {
	p.net, err = raftnet.New(raftnet.Config{
		Pair: m.Pair, ID: m.Self.ID, Addr: m.Self.Addr, Port: p.cfg.Port, TLS: p.cfg.ClientTLS, Authorize: p.cfg.Authorize,
		// Whoever is authorized may ask how far this is.
		Member: func(string) bool { return true }, Resolve: func(string) string { return "" },
		Handler: p, Log: p.cfg.Log, Dial: p.cfg.Dial, Passive: true, Speaks: p.speaks,
	})
	return err
}

// speaks checks the certificates of the members that this one asks.
func (p *Puller) speaks(id string, cs tls.ConnectionState) error {
	if p.cfg.NodeOf == nil {
		return nil
	}
	for _, peer := range p.marker().Peers {
		if peer.ID != id {
			continue
		}
		node, err := p.cfg.NodeOf(cs)
		if err == nil && node != peer.Name {
			err = fmt.Errorf("certificate is for node %s, the member is on %s", node, peer.Name)
		}
		return err
	}
	return nil
}

// Status implements raftnet.Handler.
func (p *Puller) Status() raftnet.Status {
	m := p.marker()
	return raftnet.Status{ID: m.Self.ID, Applied: m.Applied}
}

// SeesDead implements raftnet.Handler.
func (p *Puller) SeesDead(context.Context, string) bool { return false }

// attempt does all that is left, from one member.
func (p *Puller) attempt(ctx context.Context) error {
	p.say(func(g *Progress) { g.Stage, g.From = Waiting, "" })
	var errs []error
	if p.marker().Instead != "" {
		if err := p.renew(ctx); err != nil {
			errs = append(errs, err) // it may have been done, and not been heard
		}
	}
	for _, peer := range p.givers(ctx) {
		err := p.fetchFrom(ctx, peer)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", peer.Name, err))
	}
	if len(errs) == 0 {
		return errors.New("pair: no data replica answers")
	}
	return errors.Join(errs...)
}

// givers lists the data replicas that answer: first the one that gave before,
// then those that do not serve.
func (p *Puller) givers(ctx context.Context) []Peer {
	m := p.marker()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	type answer struct {
		peer Peer
		rank int
	}
	var list []answer
	for _, peer := range m.Peers {
		if peer.Witness || peer.ID == m.Self.ID {
			continue
		}
		s, err := p.net.Status(ctx, peer.ID, peer.Addr)
		if err != nil {
			continue
		}
		rank := 1
		switch {
		case m.Session != "" && m.From == peer.ID:
			rank = 0
		case s.Serving:
			rank = 2
		}
		list = append(list, answer{peer, rank})
	}
	slices.SortStableFunc(list, func(a, b answer) int { return a.rank - b.rank })
	var peers []Peer
	for _, a := range list {
		peers = append(peers, a.peer)
	}
	return peers
}

// fetchFrom fetches all that is left from one member and finishes.
func (p *Puller) fetchFrom(ctx context.Context, peer Peer) error {
	m := p.marker()
	st, err := p.net.Stream(ctx, peer.ID, peer.Addr)
	if err != nil {
		return err
	}
	defer st.Close()
	q := request{Version: protocol, Op: opHello, Witness: m.Self.Witness}
	if m.From == peer.ID {
		q.Session = m.Session
	}
	if err := sendJSON(st, &q); err != nil {
		return err
	}
	b, err := st.Receive(5 * time.Minute) // freezing may wait for a disk
	if err != nil {
		return err
	}
	o, err := parseOffer(b)
	if err != nil {
		return err
	}
	if m.Instead != "" { // only members are given anything
		if err := p.mark(func(m *Marker) { m.Instead = "" }); err != nil {
			return err
		}
	}
	p.say(func(g *Progress) {
		g.Stage, g.From, g.Files, g.Total, g.Applied, g.Err = Fetching, peer.Name, len(o.Files), o.total(), o.Applied, ""
	})
	if o.Session != m.Session || m.From != peer.ID {
		if err := p.begin(peer, o); err != nil {
			return err
		}
	}
	if !m.Self.Witness {
		if err := p.fetch(st, o); err != nil {
			return err
		}
	}
	if err := p.finish(o); err != nil {
		return err
	}
	if err := p.unmark(); err != nil {
		return err
	}
	if !m.Self.Witness {
		// The giver forgets it anyway after a while.
		if sendJSON(st, &request{Version: protocol, Op: opDone, Session: o.Session}) == nil {
			_, _ = st.Receive(10 * time.Second)
		}
	}
	return nil
}

// unmark makes the directory one that is opened.
func (p *Puller) unmark() error {
	if err := p.cfg.FS.Remove(filepath.Join(p.cfg.Dir, voter.SeedingName)); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	if err := p.cfg.FS.SyncDir(p.cfg.Dir); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	return nil
}

// begin makes room for another frozen copy. The complete segments that it has
// too are kept: their names are random.
func (p *Puller) begin(peer Peer, o *offer) error {
	m := p.marker()
	if err := p.mark(func(m *Marker) { m.Session, m.From, m.Done, m.Offset = "", "", 0, 0 }); err != nil {
		return err
	}
	for _, d := range []string{metaDir, "raft"} {
		if err := removeAll(p.cfg.FS, filepath.Join(p.cfg.Dir, d)); err != nil {
			return err
		}
	}
	if m.Self.Witness {
		if err := removeAll(p.cfg.FS, filepath.Join(p.cfg.Dir, logDir)); err != nil {
			return err
		}
	} else if err := p.keepSegments(o); err != nil {
		return err
	}
	dirs := map[string]bool{logDir: true, metaDir: true}
	for _, f := range o.Files {
		dirs[path.Dir(f.Path)] = true
	}
	for d := range dirs {
		if m.Self.Witness {
			break
		}
		if err := fsx.MkdirAllSync(p.cfg.FS, filepath.Join(p.cfg.Dir, filepath.FromSlash(d)), 0o700); err != nil {
			return fmt.Errorf("pair: %w", err)
		}
	}
	return p.mark(func(m *Marker) { m.Session, m.From, m.Applied = o.Session, peer.ID, o.Applied })
}

// keepSegments removes the files of the log that the offer does not have, or
// has in another size, or that are damaged.
func (p *Puller) keepSegments(o *offer) error {
	dir := filepath.Join(p.cfg.Dir, logDir)
	names, err := p.cfg.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	for _, name := range names {
		full := filepath.Join(dir, name)
		if slices.ContainsFunc(o.Files, func(f file) bool { return f.Path == logDir+"/"+name && p.whole(f) }) {
			continue
		}
		if err := removeAll(p.cfg.FS, full); err != nil {
			return err
		}
	}
	return nil
}

// whole reports whether a segment is here already, complete and sound.
func (p *Puller) whole(f file) bool {
	if !strings.HasPrefix(f.Path, logDir+"/") || !strings.HasSuffix(f.Path, ".seg") {
		return false
	}
	name := filepath.Join(p.cfg.Dir, filepath.FromSlash(f.Path))
	h, err := fsx.Open(p.cfg.FS, name)
	if err != nil {
		return false
	}
	size, err := h.Size()
	_ = h.Close() // it was only looked at
	return err == nil && size == f.Size && seglog.CheckFile(p.cfg.FS, name) == nil
}

// fetch gets the files from where the marker stands.
func (p *Puller) fetch(st *raftnet.Stream, o *offer) error {
	m := p.marker()
	if m.Done > len(o.Files) {
		return fmt.Errorf("pair: %d files are done, the offer has %d", m.Done, len(o.Files))
	}
	n := int64(0)
	for _, f := range o.Files[:m.Done] {
		n += f.Size
	}
	g := getter{p: p, st: st, o: o, bytes: n + m.Offset}
	for i := m.Done; i < len(o.Files); i++ {
		from := int64(0)
		if i == m.Done {
			from = m.Offset
		}
		if from == 0 && p.whole(o.Files[i]) {
			g.bytes += o.Files[i].Size
			continue
		}
		if err := g.file(i, from); err != nil {
			return err
		}
	}
	return g.note(len(o.Files), 0)
}

// getter fetches files one after the other.
type getter struct {
	p     *Puller
	st    *raftnet.Stream
	o     *offer
	bytes int64
	since int64 // octets since the last note
}

// file fetches the rest of a file.
func (g *getter) file(i int, from int64) error {
	f, p := g.o.Files[i], g.p
	h, err := p.cfg.FS.OpenFile(filepath.Join(p.cfg.Dir, filepath.FromSlash(f.Path)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	defer h.Close()
	if err := h.Truncate(from); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	for off := from; off < f.Size; {
		n := min(turnSize, f.Size-off)
		q := request{Version: protocol, Op: opGet, Session: g.o.Session, File: i, Offset: off, Size: n}
		if err := sendJSON(g.st, &q); err != nil {
			return err
		}
		for end := off + n; off < end; {
			b, err := g.st.Receive(time.Minute)
			if err != nil {
				return err
			}
			if b, err = parsePiece(b); err != nil || int64(len(b)) > end-off || len(b) == 0 {
				return errors.Join(errPiece, err)
			}
			if _, err := h.WriteAt(b, off); err != nil {
				return fmt.Errorf("pair: %w", err)
			}
			off += int64(len(b))
			g.bytes += int64(len(b))
			g.since += int64(len(b))
		}
		p.say(func(pr *Progress) { pr.Bytes = g.bytes })
		if g.since >= p.cfg.note && off < f.Size {
			if err := h.Sync(); err != nil {
				return fmt.Errorf("pair: %w", err)
			}
			if err := g.note(i, off); err != nil {
				return err
			}
		}
	}
	if err := h.Sync(); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	if g.since >= p.cfg.note {
		return g.note(i+1, 0)
	}
	return nil
}

// note writes down how far everything is durable. The files are; their names
// are made so here.
func (g *getter) note(done int, offset int64) error {
	g.since = 0
	dirs := map[string]bool{}
	for _, f := range g.o.Files {
		dirs[path.Dir(f.Path)] = true
	}
	for d := range dirs {
		if err := g.p.cfg.FS.SyncDir(filepath.Join(g.p.cfg.Dir, filepath.FromSlash(d))); err != nil {
			return fmt.Errorf("pair: %w", err)
		}
	}
	return g.p.mark(func(m *Marker) { m.Done, m.Offset = done, offset })
}

// finish checks what was fetched and writes what raft needs.
func (p *Puller) finish(o *offer) error {
	m := p.marker()
	p.say(func(g *Progress) { g.Stage, g.Bytes = Checking, g.Total })
	if !m.Self.Witness {
		if err := p.check(o); err != nil {
			// None of it is trusted any more.
			return errors.Join(err, p.mark(func(m *Marker) { m.Session, m.From, m.Done, m.Offset = "", "", 0, 0 }))
		}
	}
	if err := m.writePeers(p.cfg.FS, p.cfg.Dir); err != nil {
		return err
	}
	return voter.Plant(p.cfg.FS, p.cfg.Dir, m.Self.ID, m.kind(), o.Base)
}

func (p *Puller) check(o *offer) error {
	for _, f := range o.Files {
		if strings.HasPrefix(f.Path, logDir+"/") && strings.HasSuffix(f.Path, ".seg") {
			if err := seglog.CheckFile(p.cfg.FS, filepath.Join(p.cfg.Dir, filepath.FromSlash(f.Path))); err != nil {
				return err
			}
		}
	}
	if p.cfg.Check == nil {
		return nil
	}
	if err := p.cfg.Check(filepath.Join(p.cfg.Dir, metaDir)); err != nil {
		return fmt.Errorf("pair: the state that was fetched: %w", err)
	}
	return nil
}

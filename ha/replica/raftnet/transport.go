package raftnet

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Time allowed for a call.
const (
	dialTime      = time.Second
	heartbeatTime = 2 * time.Second
	voteTime      = 2 * time.Second
	appendTime    = 10 * time.Second // a follower's disk may be slow
)

// maxIdle is the number of idle connections kept to one member.
const maxIdle = 3

// ErrClosed is returned after Close.
var ErrClosed = errors.New("raftnet: closed")

// Handler answers questions of other members.
type Handler interface {
	// Status describes this member now. It is quick and takes no lock that
	// disk operations hold.
	Status() Status
	// SeesDead reports whether this member, too, sees that the process of
	// another one has ended. It may dial.
	SeesDead(ctx context.Context, id string) bool
}

// Config describes one group.
type Config struct {
	Pair      string
	ID        string
	Addr      string      // of this member, as the others dial it
	Port      *Port       // nil: this one only asks, and nobody reaches it
	TLS       *tls.Config // for dialing; it has our certificate
	Authorize Authorize
	// Speaks says whether a certificate that Authorize accepted is that of the
	// member id. Nil: any such certificate speaks for every member.
	Speaks  func(id string, cs tls.ConnectionState) error
	Member  func(id string) bool          // is id configured now?
	GivenUp func(id string) bool          // was id given up as lost? Nil: none was
	Resolve func(id string) (addr string) // address of a member, "" if not known
	Handler Handler
	Log     *slog.Logger
	// Stream answers a stream of a member until it ends or ctx does. Nil: such
	// connections are refused.
	Stream func(ctx context.Context, from string, s *Stream) error
	// Follows reports whether this member follows a leader in that term. Only then
	// is a heartbeat given to raft's handler at once, beside raft's own goroutine;
	// otherwise it takes the way of all requests. A heartbeat of a newer term makes
	// raft step down and raises its term: in the middle of what a leader does, the
	// entries that it is about to write would get the term of its successor, at the
	// indexes of the successor's own, and would be taken for them. Nil: never.
	Follows func(term uint64) bool
	// Passive: this member answers questions and takes no part in raft.
	Passive bool
	// Dial replaces net.Dialer in tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Transport implements raft.Transport for one group.
type Transport struct {
	cfg     Config
	consume chan raft.RPC
	done    chan struct{}
	beat    atomic.Pointer[func(raft.RPC)]
	streams atomic.Int32 // of other members, open
	askers  atomic.Int32 // connections of other members for questions
	pace    pace         // of answers

	mu      sync.Mutex // guards what follows
	idle    map[idleKey][]*link
	active  map[*link]struct{} // taken by get
	serving map[*link]uint8    // purpose
	closed  bool
	wg      sync.WaitGroup
}

var (
	_ raft.Transport   = (*Transport)(nil)
	_ raft.WithPreVote = (*Transport)(nil)
	_ raft.WithClose   = (*Transport)(nil)
)

type idleKey struct {
	id      string
	purpose uint8
}

// New makes the transport of a group and lets the port serve it.
func New(cfg Config) (*Transport, error) {
	if cfg.TLS == nil || cfg.Authorize == nil {
		return nil, errors.New("raftnet: no TLS configuration for dialing")
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	cfg.TLS = cfg.TLS.Clone()
	cfg.TLS.DynamicRecordSizingDisabled = true
	t := &Transport{
		cfg: cfg, consume: make(chan raft.RPC), done: make(chan struct{}),
		idle: map[idleKey][]*link{}, active: map[*link]struct{}{}, serving: map[*link]uint8{},
	}
	if cfg.Port == nil {
		return t, nil
	}
	return t, cfg.Port.add(t)
}

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.consume }

// LocalAddr implements raft.Transport.
func (t *Transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.cfg.Addr) }

// EncodePeer implements raft.Transport.
func (t *Transport) EncodePeer(id raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

// DecodePeer implements raft.Transport.
func (t *Transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (t *Transport) SetHeartbeatHandler(f func(raft.RPC)) { t.beat.Store(&f) }

// Close implements raft.WithClose. Calls that are running fail.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	close(t.done)
	var links []*link
	for l := range t.serving {
		links = append(links, l)
	}
	for _, list := range t.idle {
		links = append(links, list...)
	}
	for l := range t.active {
		links = append(links, l)
	}
	t.idle = nil
	t.mu.Unlock()
	if t.cfg.Port != nil {
		t.cfg.Port.remove(t)
	}
	for _, l := range links {
		_ = l.Close()
	}
	t.wg.Wait()
	return nil
}

// Stand makes raft on this member start an election at once, as the message
// of a leadership transfer does.
func (t *Transport) Stand(ctx context.Context) error {
	reply := make(chan raft.RPCResponse, 1)
	h := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(t.cfg.ID), Addr: []byte(t.cfg.Addr)}
	select {
	case t.consume <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: h}, RespChan: reply}:
	case <-ctx.Done():
		return ctx.Err()
	case <-t.done:
		return ErrClosed
	}
	select {
	case r := <-reply:
		return r.Error
	case <-ctx.Done():
		return ctx.Err()
	case <-t.done:
		return ErrClosed
	}
}

// dial opens a connection to a member.
func (t *Transport) dial(ctx context.Context, id, addr string, purpose uint8) (*link, error) {
	if a := t.cfg.Resolve(id); a != "" {
		addr = a
	}
	addr = hostPort(addr)
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := t.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l, err := t.greet(ctx, c, addr, preamble{purpose: purpose, pair: t.cfg.Pair, from: t.cfg.ID, to: id})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s at %s: %w", id, addr, err)
	}
	return l, nil
}

// hostPort returns the part of a spelled address that is dialed: what follows
// a bar is for package voter.
func hostPort(addr string) string {
	addr, _, _ = strings.Cut(addr, "|")
	return addr
}

func (t *Transport) greet(ctx context.Context, c net.Conn, addr string, pre preamble) (*link, error) {
	conf := t.cfg.TLS
	if conf.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		conf = conf.Clone()
		conf.ServerName = host
	}
	raw := newHeld(c)
	s := tls.Client(raw, conf)
	if err := s.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if err := t.cfg.Authorize(s.ConnectionState()); err != nil {
		return nil, fmt.Errorf("not authorized: %w", err)
	}
	l := newLink(s, raw)
	if err := t.speaks(pre.to, l); err != nil {
		return nil, err
	}
	l.deadline(dialTime)
	return l, pre.write(l)
}

// speaks checks that the certificate at the other end is the member's own.
func (t *Transport) speaks(id string, l *link) error {
	if t.cfg.Speaks == nil {
		return nil
	}
	if err := t.cfg.Speaks(id, l.tls.ConnectionState()); err != nil {
		return fmt.Errorf("does not speak for member %s of pair %s: %w", id, t.cfg.Pair, err)
	}
	return nil
}

// get returns an idle connection or a new one. It ends with put or drop.
func (t *Transport) get(ctx context.Context, id, addr string, purpose uint8) (l *link, reused bool, err error) {
	k := idleKey{id, purpose}
	t.mu.Lock()
	if list := t.idle[k]; len(list) > 0 {
		l, reused = list[len(list)-1], true
		t.idle[k] = list[:len(list)-1]
		t.active[l] = struct{}{}
	}
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return nil, false, ErrClosed
	}
	if l != nil {
		return l, true, nil
	}
	if l, err = t.dial(ctx, id, addr, purpose); err != nil {
		return nil, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		l.Close()
		return nil, false, ErrClosed
	}
	t.active[l] = struct{}{}
	return l, false, nil
}

// put keeps a connection for the next call.
func (t *Transport) put(l *link, id string, purpose uint8) {
	k := idleKey{id, purpose}
	l.deadline(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.active, l)
	if !t.closed && len(t.idle[k]) < maxIdle {
		t.idle[k] = append(t.idle[k], l)
		return
	}
	l.Close()
}

// drop closes a connection that cannot be used again.
func (t *Transport) drop(l *link) {
	t.mu.Lock()
	delete(t.active, l)
	t.mu.Unlock()
	l.Close()
}

// remote is an error that the other member answered with.
type remote string

func (r remote) Error() string { return string(r) }

// call makes one exchange: write sends the request, read takes the reply. A
// kept connection that turns out to be dead is replaced once.
func (t *Transport) call(ctx context.Context, id, addr string, purpose, kind uint8, limit time.Duration,
	write func(*link) error, read func([]byte) error,
) error {
	for {
		l, reused, err := t.get(ctx, id, addr, purpose)
		if err != nil {
			return err
		}
		err = exchange(ctx, l, kind, limit, write, read)
		if answer := remote(""); err == nil || errors.As(err, &answer) {
			t.put(l, id, purpose)
			return err
		}
		t.drop(l)
		if ne := net.Error(nil); !reused || ctx.Err() != nil || errors.As(err, &ne) && ne.Timeout() {
			return err
		}
	}
}

func exchange(ctx context.Context, l *link, kind uint8, limit time.Duration, write func(*link) error, read func([]byte) error) error {
	end := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	if err := l.tls.SetDeadline(end); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.tls.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := write(l); err != nil {
		return err
	}
	return readReply(l, kind, read)
}

func readReply(l *link, kind uint8, read func([]byte) error) error {
	got, body, _, err := l.receive()
	switch {
	case err != nil:
		return err
	case got == kindError:
		return remote(body)
	case got != kind|replyBit:
		return fmt.Errorf("%w: reply of kind %d to %d", errMessage, got, kind)
	}
	return read(body)
}

func (t *Transport) rpc(id raft.ServerID, addr raft.ServerAddress, kind uint8, limit time.Duration, req, resp any) error {
	return t.call(context.Background(), string(id), string(addr), forRaft, kind, limit,
		func(l *link) error { return l.send(kind, req) },
		func(b []byte) error { return decode(b, resp) })
}

// RequestVote implements raft.Transport.
func (t *Transport) RequestVote(id raft.ServerID, addr raft.ServerAddress, q *raft.RequestVoteRequest, r *raft.RequestVoteResponse) error {
	return t.rpc(id, addr, kindVote, voteTime, q, r)
}

// RequestPreVote implements raft.WithPreVote.
func (t *Transport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, q *raft.RequestPreVoteRequest, r *raft.RequestPreVoteResponse) error {
	return t.rpc(id, addr, kindPreVote, voteTime, q, r)
}

// TimeoutNow implements raft.Transport.
func (t *Transport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, q *raft.TimeoutNowRequest, r *raft.TimeoutNowResponse) error {
	return t.rpc(id, addr, kindTimeout, voteTime, q, r)
}

// AppendEntries implements raft.Transport.
func (t *Transport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, q *raft.AppendEntriesRequest, r *raft.AppendEntriesResponse) error {
	limit := appendTime
	if isHeartbeat(q) {
		limit = heartbeatTime
	}
	return t.call(context.Background(), string(id), string(addr), forRaft, kindAppend, limit,
		func(l *link) error { return l.sendAppend(q) },
		func(b []byte) error { return decode(b, r) })
}

func isHeartbeat(q *raft.AppendEntriesRequest) bool {
	return q.Term != 0 && len(q.Addr) > 0 && q.PrevLogEntry == 0 && q.PrevLogTerm == 0 &&
		len(q.Entries) == 0 && q.LeaderCommitIndex == 0
}

// InstallSnapshot implements raft.Transport. Snapshots are manifests and
// travel in one message.
func (t *Transport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, q *raft.InstallSnapshotRequest,
	r *raft.InstallSnapshotResponse, data io.Reader,
) error {
	var b bytes.Buffer
	if _, err := b.ReadFrom(data); err != nil {
		return err
	}
	if int64(b.Len()) != q.Size || q.Size > maxSnapshot {
		return fmt.Errorf("raftnet: snapshot of %d bytes, %d announced", b.Len(), q.Size)
	}
	return t.call(context.Background(), string(id), string(addr), forRaft, kindSnapshot, appendTime,
		func(l *link) error {
			w := l.begin(kindSnapshot)
			if err := w.encode(q); err != nil {
				return err
			}
			w.b = append(w.b, b.Bytes()...)
			if err := l.finish(0); err != nil {
				return err
			}
			return l.flush()
		},
		func(b []byte) error { return decode(b, r) })
}

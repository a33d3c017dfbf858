package raftnet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limits of a stream.
const (
	// MaxStreamMessage is the largest message of a stream.
	MaxStreamMessage = 16 << 20
	streamTime       = 30 * time.Second // for one message to get through
	maxStreams       = 2                // of a group at a time, from others
)

// kindStream is a message of a stream, kindServers the question for the group's
// members.
const (
	kindServers = 18
	kindStream  = 48
)

// Stream is an authenticated connection between two members for whatever they
// have to say beside raft. Messages are answered by the other end as the two
// agree. One goroutine sends and one receives.
type Stream struct {
	l    *link
	stop func() bool
	done func()
}

// Send sends a message. The octets of data follow those of head.
func (s *Stream) Send(head, data []byte) error {
	s.l.deadlineWrite(streamTime)
	w := s.l.begin(kindStream)
	w.b = append(w.b, head...)
	if err := s.l.finish(len(data)); err != nil {
		return err
	}
	if _, err := s.l.w.Write(data); err != nil {
		return err
	}
	return s.l.flush()
}

// Receive returns the next message, valid until the call after it. It waits for
// at most limit, or long if that is 0. What the other end refused is an error
// with its words, and ErrRefused.
func (s *Stream) Receive(limit time.Duration) ([]byte, error) {
	if limit == 0 {
		limit = time.Hour
	}
	s.l.deadlineRead(limit)
	kind, body, _, err := s.l.receive()
	switch {
	case err != nil:
		return nil, err
	case kind == kindError:
		return nil, fmt.Errorf("%w: %s", ErrRefused, body)
	case kind != kindStream:
		return nil, fmt.Errorf("%w: kind %d in a stream", errMessage, kind)
	}
	return body, nil
}

// Refuse tells the other end why nothing follows.
func (s *Stream) Refuse(reason error) error { return s.l.refuse(reason.Error()) }

// Close ends the stream.
func (s *Stream) Close() error {
	if s.stop != nil {
		s.stop()
	}
	err := s.l.Close()
	if s.done != nil {
		s.done()
	}
	return err
}

// ErrRefused is the other end's refusal.
var ErrRefused = errors.New("refused by the other member")

// refuse sends an error in words; the connection may be gone already.
func (l *link) refuse(why string) error {
	l.deadlineWrite(dialTime)
	w := l.begin(kindError)
	w.b = append(w.b, why...)
	if err := l.finish(0); err != nil {
		return err
	}
	return l.flush()
}

func (l *link) deadlineRead(d time.Duration)  { _ = l.tls.SetReadDeadline(time.Now().Add(d)) }
func (l *link) deadlineWrite(d time.Duration) { _ = l.tls.SetWriteDeadline(time.Now().Add(d)) }

// Stream opens a stream to a member. It ends with ctx.
func (t *Transport) Stream(ctx context.Context, id, addr string) (*Stream, error) {
	l, err := t.dial(ctx, id, addr, forStream)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		l.Close()
		return nil, ErrClosed
	}
	t.active[l] = struct{}{}
	l.limit = MaxStreamMessage
	l.deadline(0)
	return &Stream{l: l, stop: context.AfterFunc(ctx, func() { _ = l.Close() }), done: func() { t.forget(l) }}, nil
}

func (t *Transport) forget(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.active, l)
}

// serveStream hands a stream to whoever answers it.
func (t *Transport) serveStream(l *link, from string) error {
	if t.cfg.Stream == nil {
		return l.refuse("this member answers no such connection")
	}
	if t.streams.Add(1) > maxStreams {
		t.streams.Add(-1)
		return l.refuse("too many at a time")
	}
	defer t.streams.Add(-1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-t.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	l.limit = MaxStreamMessage
	return t.cfg.Stream(ctx, from, &Stream{l: l})
}

// Server is a member as raft's configuration has it. Addr is spelled as there.
type Server struct {
	ID, Addr string
	Voter    bool
}

// maxServers bounds a group.
const maxServers = 64

// Lister is a Handler that knows the group's configuration.
type Lister interface {
	// Servers returns the newest configuration and the entry that it is in, 0 if
	// there is none.
	Servers() (index uint64, list []Server)
}

func (w *writer) servers(index uint64, list []Server) {
	w.u64(index)
	list = list[:min(len(list), maxServers)]
	w.u16(uint16(len(list))) //nolint:gosec // bounded above
	for _, s := range list {
		w.string(s.ID)
		w.string(s.Addr)
		w.bool(s.Voter)
	}
}

func decodeServers(b []byte) (index uint64, list []Server, err error) {
	r := reader{b: b}
	index = r.u64()
	n := int(r.u16())
	if n > maxServers {
		return 0, nil, fmt.Errorf("%w: %d servers", errMessage, n)
	}
	for range n {
		list = append(list, Server{ID: r.string(), Addr: r.string(), Voter: r.bool()})
	}
	return index, list, r.end()
}

// Servers asks a member for the group's configuration.
func (t *Transport) Servers(ctx context.Context, id, addr string) (index uint64, list []Server, err error) {
	err = t.call(ctx, id, addr, forStatus, kindServers, voteTime,
		func(l *link) error {
			l.begin(kindServers)
			if err := l.finish(0); err != nil {
				return err
			}
			return l.flush()
		},
		func(b []byte) (err error) { index, list, err = decodeServers(b); return err })
	return index, list, err
}

package raftnet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// pipeline sends AppendEntries without waiting for the reply to the one
// before: at most two are under way, since more only makes batches smaller.
type pipeline struct {
	t       *Transport
	l       *link
	sent    chan *future // unbuffered: blocks the sender while one is awaited
	replies chan raft.AppendFuture
	done    chan struct{}
	once    sync.Once
}

var _ raft.AppendPipeline = (*pipeline)(nil)

// future implements raft.AppendFuture. raft gets it with the reply in it.
type future struct {
	start time.Time
	req   *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
}

func (f *future) Error() error                          { return nil }
func (f *future) Start() time.Time                      { return f.start }
func (f *future) Request() *raft.AppendEntriesRequest   { return f.req }
func (f *future) Response() *raft.AppendEntriesResponse { return f.resp }

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(id raft.ServerID, addr raft.ServerAddress) (raft.AppendPipeline, error) {
	l, _, err := t.get(context.Background(), string(id), string(addr), forRaft)
	if err != nil {
		return nil, err
	}
	l.deadline(0)
	p := &pipeline{t: t, l: l, sent: make(chan *future), replies: make(chan raft.AppendFuture), done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	t.wg.Go(func() { p.receive(t.done) })
	return p, nil
}

// receive takes the replies. On an error it closes the connection, which makes
// the sender fail and raft start over. raft takes any future it gets for a
// sign of life of the follower, so that one without a reply is not delivered.
func (p *pipeline) receive(closed <-chan struct{}) {
	defer p.Close()
	for {
		var f *future
		select {
		case f = <-p.sent:
		case <-p.done:
			return
		case <-closed:
			return
		}
		_ = p.l.tls.SetReadDeadline(time.Now().Add(appendTime))
		if readReply(p.l, kindAppend, func(b []byte) error { return decode(b, f.resp) }) != nil {
			return
		}
		select {
		case p.replies <- f:
		case <-p.done:
			return
		case <-closed:
			return
		}
	}
}

func (p *pipeline) AppendEntries(q *raft.AppendEntriesRequest, r *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &future{start: time.Now(), req: q, resp: r}
	_ = p.l.tls.SetWriteDeadline(time.Now().Add(appendTime))
	if err := p.l.sendAppend(q); err != nil {
		return nil, err
	}
	select {
	case p.sent <- f:
		return f, nil
	case <-p.done:
		return nil, errors.New("raftnet: pipeline closed")
	}
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.replies }

func (p *pipeline) Close() error {
	p.once.Do(func() {
		close(p.done)
		p.t.drop(p.l)
	})
	return nil
}

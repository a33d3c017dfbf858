package raftnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

// serve answers on a connection of this group until it ends.
func (t *Transport) serve(l *link, pre preamble) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.serving[l] = pre.purpose
	t.wg.Add(1)
	t.mu.Unlock()
	defer t.wg.Done()
	defer func() {
		t.mu.Lock()
		delete(t.serving, l)
		t.mu.Unlock()
	}()
	var err error
	switch pre.purpose {
	case forRaft:
		if t.cfg.Passive {
			err = l.refuse("this member does not take part yet")
		} else {
			err = t.serveRaft(l)
		}
	case forStatus:
		err = t.serveStatus(l)
	case forStream:
		err = t.serveStream(l, pre.from)
	case forAsk:
		err = t.serveAsks(l, pre.from)
	case forWatch:
		_, _, _, err = l.receive() // nothing comes: this waits for the end
	default:
		err = fmt.Errorf("connection for %q", pre.purpose)
	}
	select {
	case <-t.done:
	default:
		if !errors.Is(err, io.EOF) {
			t.cfg.Log.Debug("connection ended", "pair", t.cfg.Pair, "from", pre.from, "for", string(pre.purpose), "err", err)
		}
	}
}

func (t *Transport) serveRaft(l *link) error {
	reply := make(chan raft.RPCResponse, 1)
	for {
		kind, body, _, err := l.receive()
		if err != nil {
			return err
		}
		rpc, err := decodeRPC(kind, body)
		if err != nil {
			return err
		}
		rpc.RespChan = reply
		q, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if beat := t.beat.Load(); ok && beat != nil && isHeartbeat(q) && t.cfg.Follows != nil && t.cfg.Follows(q.Term) {
			(*beat)(rpc)
		} else {
			select {
			case t.consume <- rpc:
			case <-t.done:
				return ErrClosed
			}
		}
		var r raft.RPCResponse
		select {
		case r = <-reply:
		case <-t.done:
			return ErrClosed
		}
		l.deadline(appendTime)
		if err := sendReply(l, kind, r); err != nil {
			return err
		}
		l.deadline(0)
	}
}

func sendReply(l *link, kind uint8, r raft.RPCResponse) error {
	if r.Error != nil || r.Response == nil {
		w := l.begin(kindError)
		w.b = append(w.b, fmt.Sprint(r.Error)...)
		if err := l.finish(0); err != nil {
			return err
		}
		return l.flush()
	}
	return l.send(kind|replyBit, r.Response)
}

// decodeRPC makes a raft call of a request. The entries of AppendEntries are
// slices of body.
func decodeRPC(kind uint8, body []byte) (rpc raft.RPC, err error) {
	switch kind {
	case kindAppend:
		rpc.Command, err = decodeAppend(body)
		return rpc, err
	case kindVote:
		rpc.Command = &raft.RequestVoteRequest{}
	case kindPreVote:
		rpc.Command = &raft.RequestPreVoteRequest{}
	case kindTimeout:
		rpc.Command = &raft.TimeoutNowRequest{}
	case kindSnapshot:
		return decodeSnapshot(body)
	default:
		return rpc, fmt.Errorf("%w: kind %d", errMessage, kind)
	}
	return rpc, decode(body, rpc.Command)
}

// decodeSnapshot splits a request and the manifest that follows it.
func decodeSnapshot(body []byte) (rpc raft.RPC, err error) {
	r := reader{b: body}
	_, _, _, _, _ = r.header(), r.u8(), r.u64(), r.u64(), r.u64()
	_, _, _ = r.bytes(), r.u64(), r.u64()
	if r.err != nil {
		return rpc, r.err
	}
	q := &raft.InstallSnapshotRequest{}
	if err := decode(body[:len(body)-len(r.b)], q); err != nil {
		return rpc, err
	}
	if q.Size != int64(len(r.b)) {
		return rpc, fmt.Errorf("%w: snapshot of %d bytes, %d announced", errMessage, len(r.b), q.Size)
	}
	return raft.RPC{Command: q, Reader: bytes.NewReader(bytes.Clone(r.b))}, nil
}

func (t *Transport) serveStatus(l *link) error {
	for {
		kind, body, _, err := l.receive()
		if err != nil {
			return err
		}
		switch kind {
		case kindStatus:
			s := t.cfg.Handler.Status()
			l.begin(kind | replyBit).status(&s)
		case kindSeesDead:
			r := reader{b: body}
			id := r.string()
			if err := r.end(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), dialTime)
			dead := t.cfg.Handler.SeesDead(ctx, id)
			cancel()
			l.begin(kind | replyBit).bool(dead)
		case kindServers:
			var index uint64
			var list []Server
			if h, ok := t.cfg.Handler.(Lister); ok {
				index, list = h.Servers()
			}
			l.begin(kind|replyBit).servers(index, list)
		default:
			return fmt.Errorf("%w: kind %d", errMessage, kind)
		}
		l.deadline(voteTime)
		if err := l.finish(0); err != nil {
			return err
		}
		if err := l.flush(); err != nil {
			return err
		}
		l.deadline(0)
	}
}

// Status asks a member for its status.
func (t *Transport) Status(ctx context.Context, id, addr string) (s Status, err error) {
	err = t.call(ctx, id, addr, forStatus, kindStatus, voteTime,
		func(l *link) error {
			l.begin(kindStatus)
			if err := l.finish(0); err != nil {
				return err
			}
			return l.flush()
		},
		func(b []byte) (err error) { s, err = decodeStatus(b); return err })
	return s, err
}

// SeesDead asks a member whether it sees that the process of another one has
// ended.
func (t *Transport) SeesDead(ctx context.Context, id, addr, dead string) (yes bool, err error) {
	err = t.call(ctx, id, addr, forStatus, kindSeesDead, voteTime,
		func(l *link) error {
			l.begin(kindSeesDead).string(dead)
			if err := l.finish(0); err != nil {
				return err
			}
			return l.flush()
		},
		func(b []byte) error {
			r := reader{b: b}
			yes = r.bool()
			return r.err
		})
	return yes, err
}

// Farewell tells the members that watch this one that it ends on purpose.
func (t *Transport) Farewell() {
	t.mu.Lock()
	var links []*link
	for l, purpose := range t.serving {
		if purpose == forWatch {
			links = append(links, l)
		}
	}
	t.mu.Unlock()
	for _, l := range links {
		l.deadline(100 * time.Millisecond)
		l.begin(kindGoodbye)
		if l.finish(0) == nil {
			_ = l.flush() // else the watcher finds out by dialing
		}
	}
}

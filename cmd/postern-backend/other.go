package main

import (
	"context"
	"encoding/binary"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/store"
)

// asker is a replica that can ask the other one.
type asker interface {
	FetchEntry(ctx context.Context, index uint64) ([]byte, error)
	FetchMark(ctx context.Context) (index uint64, digest [16]byte, err error)
}

// other is the other data replica, asked through the pair's port.
type other struct{ r asker }

var _ peer = other{}

// Fetch implements scrub.Peer.
func (o other) Fetch(ctx context.Context, index uint64) ([]byte, error) {
	return o.r.FetchEntry(ctx, index)
}

// Mark implements peer.
func (o other) Mark(ctx context.Context) (uint64, store.Sum, error) {
	index, d, err := o.r.FetchMark(ctx)
	return index, store.Sum{binary.BigEndian.Uint64(d[:8]), binary.BigEndian.Uint64(d[8:])}, err
}

// markOf is what the machine noted last, as it is sent.
func markOf(m *fsm.FSM) (index uint64, digest [16]byte) {
	index, sum := m.Mark()
	binary.BigEndian.PutUint64(digest[:8], sum[0])
	binary.BigEndian.PutUint64(digest[8:], sum[1])
	return index, digest
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/metrics"
)

// applier is the state machine as the replica wants it.
type applier struct {
	*fsm.FSM
	entries []fsm.Entry // reused; calls of Apply never overlap
}

// Apply implements replica.StateMachine.
func (a *applier) Apply(batch []replica.Entry) []any {
	a.entries = a.entries[:0]
	for _, e := range batch {
		a.entries = append(a.entries, fsm.Entry(e))
	}
	out := a.FSM.Apply(a.entries)
	clear(a.entries)
	return out
}

// pairLog is the replica as packages mailbox and store want it: the log that
// takes commands and holds the bodies. It refuses everything until open.
type pairLog struct {
	r      *replica.Replica
	rows   *store.Store
	barred atomic.Bool // the replica is quarantined
}

var _ mailbox.Log = (*pairLog)(nil)

func (l *pairLog) open(r *replica.Replica, rows *store.Store) { l.r, l.rows = r, rows }

// witness reports whether a member is one that no client can be sent to.
func (l *pairLog) witness(name string) bool {
	for _, m := range l.r.Configured() {
		if m.Name == name {
			return m.Witness
		}
	}
	return false
}

// Propose implements mailbox.Log.
func (l *pairLog) Propose(ctx context.Context, data []byte) (any, uint64, error) {
	if l.barred.Load() {
		return nil, 0, &mailbox.ErrNotServing{}
	}
	if l.r.Serving() && (addsMail(data) && l.r.Low() || l.rows != nil && l.rows.Full()) {
		return nil, 0, mailbox.ErrNoRoom // what is left is for deleting
	}
	began := time.Now()
	result, index, err := l.r.Propose(ctx, data)
	if err != nil {
		return nil, 0, l.translate(err)
	}
	metrics.CommitSeconds.Observe(time.Since(began).Seconds())
	return result, index, nil
}

// addsMail reports whether a command brings the text of messages.
func addsMail(data []byte) bool {
	switch command.Peek(data) {
	case command.OpPart, command.OpDeliver, command.OpAppend:
		return true
	}
	return false
}

// Confirm implements mailbox.Log.
func (l *pairLog) Confirm(ctx context.Context) error {
	if l.barred.Load() {
		return &mailbox.ErrNotServing{}
	}
	err := l.r.Confirm(ctx)
	if err == nil {
		return nil
	}
	if errors.Is(err, replica.ErrNoQuorum) {
		return &mailbox.ErrNotServing{}
	}
	return l.translate(err)
}

// ReadEntry implements store.Bodies.
func (l *pairLog) ReadEntry(index uint64, buf []byte) ([]byte, error) {
	return l.r.Log().ReadEntry(index, buf)
}

// translate gives the replica's errors the names that mail servers know.
func (l *pairLog) translate(err error) error {
	var not replica.ErrNotServing
	switch {
	case errors.As(err, &not):
		leader := not.Name
		if l.witness(leader) {
			leader = ""
		}
		return &mailbox.ErrNotServing{Leader: leader}
	case errors.Is(err, replica.ErrUnknown):
		return fmt.Errorf("%w: %w", mailbox.ErrUnknownState, err)
	case errors.Is(err, replica.ErrNoSpace):
		return fmt.Errorf("%w: %w", mailbox.ErrNoRoom, err)
	case errors.Is(err, replica.ErrBusy):
		return fmt.Errorf("%w: %w", mailbox.ErrBusy, err)
	case errors.Is(err, replica.ErrTooLarge):
		return fmt.Errorf("%w: %w", mailbox.ErrTooBig, err)
	}
	return err
}

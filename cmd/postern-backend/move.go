package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/admin"
)

// Limits of one answer or request of a move.
const (
	moveRows   = 512      // messages listed at once
	moveOctets = 16 << 20 // octets of messages in an answer
	moveMemory = 5000     // delivery keys, or senders, of an entry: it fits a request
)

// handleMoves registers the methods by which an account goes to another pair.
func (o *operator) handleMoves() {
	s := o.n.Admin
	admin.Handle(s, admin.MoveState, o.moveState)
	admin.Handle(s, admin.MoveStep, o.moveStep)
	admin.Handle(s, admin.MoveAccount, o.moveAccount)
	admin.Handle(s, admin.MoveRows, o.moveRows)
	admin.Handle(s, admin.MoveBodies, o.moveBodies)
	admin.Handle(s, admin.MoveKeys, o.moveKeys)
	admin.Handle(s, admin.MovePart, o.movePart)
	admin.Handle(s, admin.MoveImport, o.moveImport)
	admin.Handle(s, admin.MoveSum, o.moveSum)
}

var moveStates = map[store.MoveState]string{
	store.MoveCopied: admin.MoveCopied, store.MoveFenced: admin.MoveFenced,
	store.MoveGone: admin.MoveGone, store.MoveArrives: admin.MoveArrives,
}

var moveSteps = map[command.MoveStep]string{
	command.MoveAnnounce: "announced", command.MoveFence: "fenced", command.MoveStay: "stays", command.MoveGone: "gone",
	command.MoveArrive: "arrives", command.MoveOpen: "open", command.MoveDrop: "dropped",
}

// moveError gives errors of a move their status.
func moveError(account string, err error) error {
	var moved *mailbox.ErrMoved
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mailbox.ErrNoAccount), errors.Is(err, mailbox.ErrNoMailbox):
		return fmt.Errorf("%w: account %q: %w", admin.ErrNotFound, account, err)
	case errors.Is(err, mailbox.ErrExists):
		return fmt.Errorf("%w: an account %q is there already, and would be written over", admin.ErrConflict, account)
	case errors.As(err, &moved), errors.Is(err, mailbox.ErrLevel):
		return fmt.Errorf("%w: account %q: %w", admin.ErrConflict, account, err)
	}
	return conflict(err)
}

func tokenOf(text string) (t command.Key, err error) {
	if n, err := hex.Decode(t[:], []byte(text[:min(len(text), 2*len(t))])); err != nil || n != len(t) || len(text) != 2*n || t == (command.Key{}) {
		return t, fmt.Errorf("%w: token", admin.ErrBadRequest)
	}
	return t, nil
}

func (o *operator) moveState(ctx context.Context, in admin.MailboxName) (out admin.MoveStatus, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	m, err := l.boxes.MoveStatus(ctx, in.Account)
	if err != nil {
		return out, moveError(in.Account, err)
	}
	out = admin.MoveStatus{Exists: m.Exists, State: moveStates[m.State], Closed: m.Closed, Peer: m.Peer, Since: m.Since}
	if m.State != 0 {
		out.Token = hex.EncodeToString(m.Token[:])
	}
	return out, nil
}

func (o *operator) moveStep(ctx context.Context, in admin.MoveStepRequest) (out admin.None, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	token, err := tokenOf(in.Token)
	if err != nil {
		return out, err
	}
	step := command.MoveStep(in.Step)
	if moveSteps[step] == "" || (step == command.MoveAnnounce || step == command.MoveArrive) && in.Peer == "" {
		return out, fmt.Errorf("%w: step %d to %q", admin.ErrBadRequest, in.Step, in.Peer)
	}
	err = l.boxes.Move(ctx, command.Move{Step: step, Account: in.Account, Peer: in.Peer, Token: token})
	if err == nil {
		o.n.Log.Info("account moves", "pair", l.place.group.Pair, "account", in.Account, "step", moveSteps[step], "peer", in.Peer, "token", in.Token)
	}
	return out, moveError(in.Account, err)
}

func (o *operator) moveAccount(ctx context.Context, in admin.MailboxName) (out admin.MovedAccount, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	x, err := l.boxes.Export(ctx, in.Account)
	if err != nil {
		return out, moveError(in.Account, err)
	}
	out.Self = command.Append(nil, &command.Import{Account: in.Account, Self: &x.Self})
	for part := range slices.Chunk(x.Answered, moveMemory) {
		out.Memory = append(out.Memory, command.Append(nil, &command.Import{Account: in.Account, Answered: part}))
	}
	for i := range x.Mailboxes {
		out.Mailboxes = append(out.Mailboxes, command.Append(nil, &command.Import{Account: in.Account, Mailbox: &x.Mailboxes[i]}))
	}
	out.Messages, out.Bytes = x.Messages, x.Bytes
	return out, nil
}

func (o *operator) moveRows(ctx context.Context, in admin.MoveRowsRequest) (out admin.MovedRows, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	if in.Limit <= 0 || in.Limit > moveRows {
		in.Limit = moveRows
	}
	x, err := l.boxes.ExportRows(ctx, in.Account, in.UIDValidity, in.After, in.Limit)
	if err != nil {
		return out, moveError(in.Account, err)
	}
	return admin.MovedRows{Entry: command.Append(nil, &x.Import), IDs: x.IDs, Sizes: x.Sizes, More: x.More}, nil
}

func (o *operator) moveBodies(ctx context.Context, in admin.MoveBodiesRequest) (out admin.MovedBodies, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	if in.Limit <= 0 || in.Off < 0 || len(in.IDs) > moveRows {
		return out, fmt.Errorf("%w: %d messages, octets %d from %d on", admin.ErrBadRequest, len(in.IDs), in.Limit, in.Off)
	}
	total := 0
	for i, id := range in.IDs {
		octets, err := l.boxes.ExportBody(ctx, id, in.Off, in.Limit)
		if errors.Is(err, mailbox.ErrExpunged) {
			out.Gone = append(out.Gone, i)
		} else if err != nil {
			return out, moveError("", err)
		}
		if total += len(octets); total > moveOctets {
			return out, fmt.Errorf("%w: more than %d octets", admin.ErrBadRequest, moveOctets)
		}
		out.Octets = append(out.Octets, octets)
	}
	return out, nil
}

func (o *operator) moveKeys(ctx context.Context, in admin.MoveKeysRequest) (out admin.MovedKeys, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	keys, clock, err := l.boxes.ExportKeys(ctx, in.Account, in.Since)
	if err != nil {
		return out, moveError(in.Account, err)
	}
	out.Clock = clock
	for part := range slices.Chunk(keys, moveMemory) {
		out.Entries = append(out.Entries, command.Append(nil, &command.Import{Account: in.Account, Keys: part}))
	}
	return out, nil
}

func (o *operator) movePart(ctx context.Context, in admin.MovePartRequest) (out admin.MoveExtent, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	at, err := l.boxes.ImportPart(ctx, in.Octets)
	return admin.MoveExtent{Index: at.Index, Off: at.Off, Len: at.Len}, moveError("", err)
}

func (o *operator) moveImport(ctx context.Context, in admin.MoveImportRequest) (out admin.None, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	token, err := tokenOf(in.Token)
	if err != nil {
		return out, err
	}
	given, err := command.Decode(in.Entry)
	c, ok := given.(*command.Import)
	if err != nil || !ok {
		return out, fmt.Errorf("%w: no import: %w", admin.ErrBadRequest, err)
	}
	c.Token = token
	brought := map[int]mailbox.Brought{}
	for _, m := range in.Brought {
		if m.Row < 0 || m.Row >= len(c.Rows) {
			return out, fmt.Errorf("%w: a message for row %d", admin.ErrBadRequest, m.Row)
		}
		b := mailbox.Brought{Octets: m.Octets}
		for _, x := range m.Parts {
			b.Parts = append(b.Parts, command.Extent{Index: x.Index, Off: x.Off, Len: x.Len})
		}
		brought[m.Row] = b
	}
	return out, moveError(c.Account, l.boxes.Import(ctx, c, brought))
}

func (o *operator) moveSum(ctx context.Context, in admin.MailboxName) (out admin.MovedSum, err error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return out, err
	}
	sum, err := l.boxes.Sum(ctx, in.Account)
	return admin.MovedSum{Sum: hex.EncodeToString(sum[:])}, moveError(in.Account, err)
}

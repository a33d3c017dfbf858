package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/cmd/internal/logcopy"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/message"
)

const (
	// restoredPrefix is where folders go that are restored under their own name.
	restoredPrefix = "Restored"
	// systemFlags is how many bits of a row's flags are not keywords.
	systemFlags = 5
	// busyTries and busyWait bound how long one message waits for room.
	busyTries = 100
	busyWait  = 100 * time.Millisecond
)

// restore appends messages of a snapshot to folders, with their flags and dates.
// Folders that it makes have what those of the snapshot had, unless only some
// messages are restored.
func (u *upkeep) restore(ctx context.Context, name string, in *admin.Restore, done *atomic.Int64) (result string, err error) {
	o, err := u.keeper.Open(name, logcopy.Open)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	boxes, err := foldersOf(o, in.Account, in.Folder)
	if err != nil {
		return "", err
	}
	into := in.Into
	if into == "" {
		into = in.Account
	}
	account, err := u.cfg.Boxes.Account(ctx, into)
	if err != nil {
		return "", err
	}
	slices.SortFunc(boxes, func(a, b *store.Mailbox) int { return strings.Compare(a.Name, b.Name) })
	to := make([]string, len(boxes))
	for i, box := range boxes {
		switch to[i] = in.To; {
		case in.To == "":
			to[i] = restoredPrefix + "/" + box.Name
		case in.Folder == "":
			to[i] += "/" + box.Name
		}
	}
	had := make([]mailbox.Properties, len(boxes))
	if in.UIDs == nil {
		if had, err = propertiesOf(o, boxes); err != nil {
			return "", err
		}
	}
	// Those below others first: a folder begins with the list of rights of the one
	// above it.
	for i, target := range slices.Backward(to) {
		if err := account.Restore(ctx, target, had[i]); err != nil && !errors.Is(err, mailbox.ErrExists) {
			return "", fmt.Errorf("folder %q: %w", target, err)
		}
	}
	for i, box := range boxes {
		if err := u.restoreFolder(ctx, o, box, account, to[i], in.UIDs, done); err != nil {
			return "", fmt.Errorf("%d messages restored; folder %q: %w", done.Load(), box.Name, err)
		}
	}
	return fmt.Sprintf("%d messages restored to %s of %s", done.Load(), strings.Join(to, ", "), into), nil
}

// foldersOf returns the folders of an account in a snapshot, or the one named.
func foldersOf(o *snapshot.Opened, account, folder string) ([]*store.Mailbox, error) {
	id, err := o.Rows.AccountID(account)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: snapshot %s has no account %q", admin.ErrNotFound, o.Name, account)
	}
	if err != nil {
		return nil, err
	}
	n, err := o.Rows.AccountSnapshot(id)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	var out []*store.Mailbox
	err = n.Mailboxes(id, func(m *store.Mailbox, _ *store.Counters) bool {
		if folder == "" || m.Name == folder || strings.EqualFold(folder, "INBOX") && m.Name == "INBOX" {
			out = append(out, m)
		}
		return true
	})
	if err == nil && len(out) == 0 && folder != "" {
		err = fmt.Errorf("%w: account %q has no folder %q in snapshot %s", admin.ErrNotFound, account, folder, o.Name)
	}
	return out, err
}

// propertiesOf are what folders of an account have in a snapshot beside messages.
func propertiesOf(o *snapshot.Opened, boxes []*store.Mailbox) ([]mailbox.Properties, error) {
	out := make([]mailbox.Properties, len(boxes))
	if len(boxes) == 0 {
		return out, nil
	}
	n, err := o.Rows.AccountSnapshot(boxes[0].Account)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	subscribed, lists := map[string]bool{}, map[uint64]*store.Rights{}
	err = errors.Join(
		n.Subscriptions(boxes[0].Account, func(name string) { subscribed[name] = true }),
		n.Rights(boxes[0].Account, func(box uint64, r *store.Rights) { lists[box] = r }))
	for i, box := range boxes {
		out[i] = mailbox.Properties{SpecialUse: box.SpecialUse, Rights: lists[box.ID], Subscribed: subscribed[box.Name]}
	}
	return out, err
}

// restoreFolder appends the messages of a folder with these UIDs, or all.
func (u *upkeep) restoreFolder(ctx context.Context, o *snapshot.Opened, box *store.Mailbox, to *mailbox.Account, target string, uids []uint32, done *atomic.Int64) error {
	n, err := o.Rows.MailboxSnapshot(box.ID)
	if err != nil {
		return err
	}
	defer n.Close()
	left := slices.Clone(uids)
	rows := n.Rows(box.ID)
	for ok := rows.Seek(1); ok; ok = rows.Next() {
		w := rows.Row()
		if w == nil {
			break
		}
		if uids != nil {
			i := slices.Index(left, w.UID)
			if i < 0 {
				continue
			}
			left = slices.Delete(left, i, i+1)
		}
		if err := u.restoreMessage(ctx, o, box, w, to, target); err != nil {
			return fmt.Errorf("message %d: %w", w.UID, err)
		}
		done.Add(1)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: no messages %v in the snapshot", admin.ErrNotFound, left)
	}
	return nil
}

func (u *upkeep) restoreMessage(ctx context.Context, o *snapshot.Opened, box *store.Mailbox, w *store.Row, to *mailbox.Account, target string) error {
	body, err := o.Rows.Body(w.MessageID)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := body.Check(); err != nil {
		return err
	}
	octets, err := body.Bytes(0, body.Size())
	if err != nil {
		return err
	}
	m := mailbox.AppendMessage{
		Bytes: octets, Flags: mailbox.Flags(w.Flags & (1<<systemFlags - 1)), InternalDate: time.Unix(0, w.InternalDate),
	}
	for i, keyword := range box.Keywords {
		if w.Flags&(1<<(systemFlags+i)) != 0 {
			m.Keywords = append(m.Keywords, keyword)
		}
	}
	for try := 0; ; try++ {
		_, _, err := to.Append(ctx, target, []mailbox.AppendMessage{m})
		if !errors.Is(err, mailbox.ErrBusy) || try == busyTries {
			return err
		}
		c, stop := u.cfg.After(busyWait)
		select {
		case <-c:
		case <-ctx.Done():
			stop()
			return ctx.Err()
		}
	}
}

// content lists what a snapshot holds of an account.
func (u *upkeep) content(in *admin.BackupQuery) (out admin.BackupContent, err error) {
	o, err := u.keeper.Open(in.Name, logcopy.Open)
	if err != nil {
		return out, snapshotError(err)
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	boxes, err := foldersOf(o, in.Account, in.Folder)
	if err != nil {
		return out, err
	}
	if in.Folder == "" {
		return folderList(o, boxes)
	}
	limit := in.Limit
	if limit <= 0 || limit > 10_000 {
		limit = 1000
	}
	n, err := o.Rows.MailboxSnapshot(boxes[0].ID)
	if err != nil {
		return out, err
	}
	defer n.Close()
	rows := n.Rows(boxes[0].ID)
	for ok := rows.Seek(in.After + 1); ok; ok = rows.Next() {
		w := rows.Row()
		if w == nil {
			break
		}
		if len(out.Messages) == limit {
			out.More = true
			break
		}
		m := admin.BackupMessage{UID: w.UID, Received: time.Unix(0, w.InternalDate).UTC(), Size: w.Size}
		describe(o, w.MessageID, &m)
		out.Messages = append(out.Messages, m)
	}
	return out, rows.Err()
}

// describe fills in what the envelope says, if it can be read.
func describe(o *snapshot.Opened, id uint64, m *admin.BackupMessage) {
	body, err := o.Rows.Body(id)
	if err != nil {
		return
	}
	defer body.Close()
	p, err := message.DecodePart(body.Message().Meta)
	if err != nil || p.Envelope == nil {
		return
	}
	if s := p.Envelope.Subject; s != nil {
		m.Subject = message.DecodeWords(*s)
	}
	if len(p.Envelope.From) > 0 {
		if a := &p.Envelope.From[0]; a.Mailbox != nil && a.Host != nil {
			m.From = *a.Mailbox + "@" + *a.Host
		}
	}
}

func folderList(o *snapshot.Opened, boxes []*store.Mailbox) (out admin.BackupContent, err error) {
	n, err := o.Rows.Snapshot()
	if err != nil {
		return out, err
	}
	defer n.Close()
	for _, box := range boxes {
		c, err := n.Counters(box.Account, box.ID)
		if err != nil {
			return out, err
		}
		out.Mailboxes = append(out.Mailboxes, admin.Mailbox{
			Name: box.Name, UIDValidity: box.UIDValidity, UIDNext: c.UIDNext,
			Messages: int(c.Messages), Unseen: int(c.Unseen), Size: c.Size,
		})
	}
	return out, nil
}

// snapshotError gives errors about snapshots their status.
func snapshotError(err error) error {
	switch {
	case errors.Is(err, snapshot.ErrNotFound):
		return fmt.Errorf("%w: %w", admin.ErrNotFound, err)
	case errors.Is(err, snapshot.ErrName):
		return fmt.Errorf("%w: %w", admin.ErrBadRequest, err)
	}
	return err
}

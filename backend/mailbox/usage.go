package mailbox

import (
	"context"
	"errors"
	"math"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/mail"
)

// usage is what the account of an id holds, at one moment.
func (s *Service) usage(id uint64) (Usage, error) {
	n, err := s.cfg.Store.AccountSnapshot(id)
	if err != nil {
		return Usage{}, err
	}
	defer n.Close()
	row, err := n.Account(id)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Account: row.Name, Limit: mail.Quota{Bytes: row.LimitBytes, Messages: row.LimitCount, Stamp: row.LimitStamp}}
	err = n.Mailboxes(id, func(_ *store.Mailbox, c *store.Counters) bool {
		u.Bytes += c.Size
		u.Messages += int64(c.Messages)
		return true
	})
	return u, err
}

// Usage lists what accounts hold, in the order of their names, at most limit
// after the given one. Each account is seen at one moment, all of them while
// this replica serves.
func (s *Service) Usage(ctx context.Context, after string, limit int) ([]Usage, error) {
	names, err := s.Accounts(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	list := make([]Usage, 0, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		id, err := s.cfg.Store.AccountID(name)
		var u Usage
		if err == nil {
			u, err = s.usage(id)
		}
		switch {
		case errors.Is(err, store.ErrNotFound): // removed meanwhile: it holds nothing
			u = Usage{Account: name, Limit: mail.Quota{Bytes: -1, Messages: -1}}
		case err != nil:
			return nil, err
		}
		list = append(list, u)
	}
	return list, s.cfg.Log.Confirm(ctx)
}

// Remove takes an account away with all its mail, for good, and returns what it
// held. Mail for it afterwards makes a new account, with larger UIDVALIDITYs.
func (s *Service) Remove(ctx context.Context, name string) (Usage, error) {
	if !s.level2() {
		return Usage{}, ErrLevel
	}
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return Usage{}, err
	}
	id, err := s.cfg.Store.AccountID(name)
	var had Usage
	if err == nil {
		had, err = s.usage(id)
	}
	if errors.Is(err, store.ErrNotFound) {
		return Usage{}, ErrNoAccount
	}
	if err != nil {
		return Usage{}, err
	}
	a := &Account{s: s, id: id, name: name}
	for {
		done, err := propose[*command.Done](ctx, s, &command.Remove{Head: s.head(), Account: id, Limit: bulk})
		if err != nil {
			return had, err
		}
		if done.Code != command.Again {
			return had, codeError(done.Code)
		}
		if err := a.empty(ctx, done.Mailbox); err != nil {
			return had, err
		}
	}
}

// empty removes as many messages of a mailbox as one entry may.
func (a *Account) empty(ctx context.Context, mailbox uint64) error {
	uids, err := a.some(mailbox, bulk, math.MaxUint32)
	if err != nil {
		return err
	}
	_, err = propose[*command.Expunged](ctx, a.s, &command.Expunge{
		Head: a.s.head(), Account: a.id, Mailbox: mailbox, UIDs: uids, Force: true,
	})
	return err
}

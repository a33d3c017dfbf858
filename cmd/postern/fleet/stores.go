package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/directory/housekeeping"
)

// removeWithin is how long the removal of a mailbox may take; when it takes
// longer it goes on in the next run.
const removeWithin = 5 * time.Minute

// Stores are the pairs of a cluster, by the replicas that serve them.
type Stores struct {
	f     *Fleet
	names []string
	at    map[string]*Node // nil: nobody serves
}

var _ housekeeping.Pairs = (*Stores)(nil)

// Stores finds out who serves each pair.
func (f *Fleet) Stores(ctx context.Context) (*Stores, error) {
	pairs, err := f.Pairs(ctx, "")
	if err != nil {
		return nil, err
	}
	s := &Stores{f: f, at: map[string]*Node{}}
	for _, p := range pairs {
		if p.Name == "" {
			continue // a node that has not said what it holds
		}
		s.names = append(s.names, p.Name)
		if n, err := f.Find(p.Serving); err == nil && p.Serving != "" {
			one := *n
			one.Pair = p.Name
			s.at[p.Name] = &one
		}
	}
	return s, nil
}

// Names are the pairs that are known.
func (s *Stores) Names() []string { return s.names }

func (s *Stores) serving(pair string) (*Node, error) {
	if n := s.at[pair]; n != nil {
		return n, nil
	}
	return nil, errors.New("no replica of it serves")
}

// Usage lists what the accounts of a pair hold.
func (s *Stores) Usage(ctx context.Context, pair string, each func(u housekeeping.Used)) error {
	n, err := s.serving(pair)
	if err != nil {
		return err
	}
	q := admin.MailboxQuery{Pair: pair, Limit: page}
	for {
		part, err := limited(ctx, s.f.timeout, n, admin.MailboxUsage, q)
		if err != nil {
			return err
		}
		for _, u := range part.Accounts {
			each(housekeeping.Used{
				Account: u.Account, Bytes: u.UsedBytes, Messages: u.UsedMessages, LimitBytes: u.LimitBytes, LimitMessages: u.LimitMsgs,
			})
		}
		if !part.More {
			return nil
		}
		if len(part.Accounts) == 0 {
			return fmt.Errorf("%s: an empty page of accounts, and more behind it", n.Title())
		}
		q.After = part.Accounts[len(part.Accounts)-1].Account
	}
}

// Remove removes an account of a pair for good.
func (s *Stores) Remove(ctx context.Context, pair, account string) error {
	n, err := s.serving(pair)
	if err != nil {
		return err
	}
	_, err = limited(ctx, max(s.f.timeout, removeWithin), n, admin.MailboxRemove, admin.MailboxName{Pair: pair, Account: account})
	return err
}

// limited is Call with a time limit.
func limited[In, Out any](ctx context.Context, limit time.Duration, n *Node, m admin.Method[In, Out], in In) (Out, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return Call(ctx, n, m, in)
}

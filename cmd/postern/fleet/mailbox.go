package fleet

import (
	"context"
	"errors"
	"slices"

	"github.com/postern-mail/postern/shared/admin"
)

// Account is one account and the pair that has it.
type Account struct {
	Account string `json:"account"`
	Pair    string `json:"pair"`
}

// best returns one data replica for each pair, the serving one where one does.
func (f *Fleet) best(ctx context.Context, pair string) ([]*Node, error) {
	pairs, err := f.Pairs(ctx, pair)
	if err != nil {
		return nil, err
	}
	var nodes []*Node
	for _, p := range pairs {
		name := p.Serving
		for _, n := range p.Nodes {
			if name == "" && n.Role == "data" && n.State != StateDown {
				name = n.Name
			}
		}
		if n, err := f.Find(name); err == nil {
			one := *n
			one.Pair = p.Name
			nodes = append(nodes, &one)
		}
	}
	if len(nodes) == 0 {
		return nil, errors.New("no data replica answers")
	}
	return nodes, nil
}

// Accounts lists the accounts of one pair, or of all when pair is "", up to
// limit of each.
func (f *Fleet) Accounts(ctx context.Context, pair string, limit int) (accounts []Account, more bool, silent []error, err error) {
	nodes, err := f.best(ctx, pair)
	if err != nil {
		return nil, false, nil, err
	}
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (out admin.MailboxListing, err error) {
		q := admin.MailboxQuery{Pair: n.Pair}
		for {
			q.Limit = min(page, limit-len(out.Accounts))
			part, err := Call(ctx, n, admin.MailboxList, q)
			if err != nil {
				return out, err
			}
			out.Accounts = append(out.Accounts, part.Accounts...)
			if out.More = part.More; !part.More || len(part.Accounts) == 0 || len(out.Accounts) >= limit {
				return out, nil
			}
			q.After = part.Accounts[len(part.Accounts)-1]
		}
	})
	accounts = []Account{}
	for _, r := range results {
		if r.Err != nil {
			silent = append(silent, r.Err)
		}
		more = more || r.Value.More
		for _, a := range r.Value.Accounts {
			accounts = append(accounts, Account{a, r.Node.Pair})
		}
	}
	if len(silent) == len(nodes) {
		return nil, false, nil, errors.Join(silent...)
	}
	return accounts, more, silent, nil
}

// Account shows one account, on the pair that has it.
func (f *Fleet) Account(ctx context.Context, pair, account string) (*admin.MailboxDetail, error) {
	nodes, err := f.best(ctx, pair)
	if err != nil {
		return nil, err
	}
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.MailboxDetail, error) {
		return Call(ctx, n, admin.MailboxShow, admin.MailboxQuery{Pair: n.Pair, Account: account})
	})
	if i := slices.IndexFunc(results, func(r Result[admin.MailboxDetail]) bool { return r.Err == nil }); i >= 0 {
		return &results[i].Value, nil
	}
	return nil, notThere(results, "account "+account)
}

package mailbox

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// Properties are what a mailbox has beside its messages and its numbers, as the
// rows of a snapshot have it.
type Properties struct {
	SpecialUse uint32        // of store.Mailbox
	Rights     *store.Rights // nil: no list
	Subscribed bool
}

// Restore makes a mailbox that had p, in this account or another one. Of special
// uses it gets those that no mailbox has, and no list of rights before the pair
// knows lists. ErrExists when it is there: then it stays as it is.
func (a *Account) Restore(ctx context.Context, name string, p Properties) error {
	free, err := a.unused(ctx, p.SpecialUse)
	if err != nil {
		return err
	}
	if _, err := a.Create(ctx, name, free); err != nil {
		return err
	}
	if p.Rights != nil && a.HasRights() {
		if err := a.setGrants(ctx, name, p.Rights.Grants); err != nil {
			return err
		}
	}
	if !p.Subscribed {
		return nil
	}
	if err := a.Subscribe(ctx, name, true); !errors.Is(err, ErrLimit) {
		return err
	}
	return nil // the mail matters more
}

// unused are the names of those of the special uses that no mailbox has.
func (a *Account) unused(ctx context.Context, use uint32) ([]string, error) {
	if use == 0 {
		return nil, nil
	}
	n, err := a.confirmed(ctx)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	err = n.Mailboxes(a.id, func(m *store.Mailbox, _ *store.Counters) bool {
		use &^= m.SpecialUse
		return true
	})
	return infoOf(&store.Mailbox{SpecialUse: use}, &store.Counters{}).SpecialUse, err
}

// setGrants makes list the one of a mailbox that was just made, which may have
// begun with another. Rights that cannot be given here are left out, and what
// the list says of the account itself. Rights are taken away first.
func (a *Account) setGrants(ctx context.Context, name string, list []store.Grant) error {
	var want []Grant
	for _, g := range list {
		post := command.Right(g.Rights) & command.RightPost
		if post != 0 && strings.TrimPrefix(g.Identifier, Negative) != a.name {
			want = append(want, Grant{g.Identifier, post.Letters()})
		}
	}
	has, err := a.Grants(ctx, name)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(has, func(g Grant) bool { return g.Identifier == Anyone }) {
		has = append(has, Grant{Identifier: Anyone}) // an empty list is one: something begins it
	}
	for _, g := range has {
		if !slices.Contains(want, g) {
			if err := a.SetGrant(ctx, name, g.Identifier, StoreReplace, ""); err != nil {
				return err
			}
		}
	}
	for _, g := range want { // "-" is before all letters
		if err := a.SetGrant(ctx, name, g.Identifier, StoreReplace, g.Rights); err != nil {
			return err
		}
	}
	return nil
}

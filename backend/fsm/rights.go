package fsm

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/mail"
)

// takesFrom reports whether m takes mail for its address from whoever has the
// identities of poster: INBOX does from everybody, every mailbox does from its
// owner, one with a list does from those who have the right to post, and one
// without from everybody, unless such are their owners'.
//
// Who posts has the rights of all lines that name one of the identities, less
// those of the negative ones (RFC 4314 2). Of identities that are not known any
// may be one that a negative line names. An owner called anyone is not told from
// the others of the domain, who have that identity too.
func (m *mailbox) takesFrom(poster []string, owners bool) bool {
	switch {
	case m.Name == inbox, slices.Contains(poster, m.owner.Name) && !strings.HasPrefix(m.owner.Name, command.Anyone+"@"):
		return true
	case m.rights == nil:
		return !owners
	}
	given, more := false, slices.Contains(poster, mail.MoreIdentities)
	for _, g := range m.rights.Grants {
		if command.Right(g.Rights)&command.RightPost == 0 {
			continue
		}
		who, negative := strings.CutPrefix(g.Identifier, command.Negative)
		named := who == command.Anyone || slices.Contains(poster, who)
		if negative && (named || more) {
			return false
		}
		given = given || named
	}
	return given
}

// listOf is the list that stands for none.
func listOf(owners bool) []store.Grant {
	if owners {
		return nil
	}
	return []store.Grant{{Identifier: command.Anyone, Rights: uint32(command.RightPost)}}
}

// setRights makes list the one of m, which had another; nil takes it away.
func (f *FSM) setRights(m *mailbox, list []store.Grant) {
	switch {
	case list == nil && m.rights == nil:
		return
	case list == nil:
		f.batch.DeleteRights(m.Account, m.ID, m.rights)
		m.rights = nil
		return
	case m.rights == nil:
		m.rights = new(store.Rights)
	}
	m.rights.Grants = list
	f.batch.PutRights(m.Account, m.ID, m.rights)
}

// grant changes the rights of one identifier.
func (f *FSM) grant(c *command.Rights) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	m := a.box(c.Name)
	switch {
	case f.closed(a):
		return &command.Done{Code: command.Moving}, nil
	case m == nil:
		return &command.Done{Code: command.NoMailbox}, nil
	case m.Name == inbox, c.Identifier == "", strings.TrimPrefix(c.Identifier, command.Negative) == a.Name:
		return &command.Done{Code: command.NotAllowed}, nil
	}
	list := listOf(c.Owners)
	if m.rights != nil {
		list = slices.Clone(m.rights.Grants)
	}
	i, known := slices.BinarySearchFunc(list, c.Identifier, func(g store.Grant, id string) int { return strings.Compare(g.Identifier, id) })
	var has command.Right
	if known {
		has = command.Right(list[i].Rights)
	}
	switch c.Action {
	case command.StoreReplace:
		has = c.Rights
	case command.StoreAdd:
		has |= c.Rights
	case command.StoreRemove:
		has &^= c.Rights
	}
	switch {
	case has == 0 && known:
		list = slices.Delete(list, i, i+1)
	case has == 0:
	case known:
		list[i].Rights = uint32(has)
	case len(list) >= command.MaxGrants:
		return &command.Done{Code: command.AtLimit}, nil
	default:
		list = slices.Insert(list, i, store.Grant{Identifier: c.Identifier, Rights: uint32(has)})
	}
	if list == nil {
		list = []store.Grant{}
	}
	f.setRights(m, list)
	return &command.Done{Account: a.ID, Mailbox: m.ID}, nil
}

// makeBelow makes a mailbox. It begins with the list of rights of the nearest
// mailbox above it (RFC 4314 4, CREATE). The name is free.
func (f *FSM) makeBelow(a *account, name string, use command.Use) *mailbox {
	var list []store.Grant
	for at := strings.LastIndexByte(name, '/'); at > 0; at = strings.LastIndexByte(name[:at], '/') {
		if above := a.box(name[:at]); above != nil {
			if above.rights != nil {
				list = append([]store.Grant{}, above.rights.Grants...)
			}
			break
		}
	}
	m := f.make(a, name, use)
	f.setRights(m, list)
	return m
}

// importRights gives box the list that it has in the other pair.
func (f *FSM) importRights(box *mailbox, in *command.ImportMailbox) {
	if !in.Listed {
		f.setRights(box, nil)
		return
	}
	list := make([]store.Grant, len(in.Grants))
	for i := range in.Grants {
		list[i] = store.Grant{Identifier: in.Grants[i].Identifier, Rights: uint32(in.Grants[i].Rights)}
	}
	f.setRights(box, list)
}

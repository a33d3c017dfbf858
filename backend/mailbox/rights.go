package mailbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/mail"
)

// Rights of RFC 4314 2.1.
const (
	Anyone      = command.Anyone   // the identifier of everybody; before "@" and a domain, of whose account is there
	Negative    = command.Negative // before an identifier: the rights are taken from it
	OwnerRights = "lrswipkxtea"    // what the owner of a mailbox has
	PostRight   = "p"              // what others can have: mail to the mailbox's address goes there
)

// HasRights reports whether the pair can keep lists of rights.
func (s *Service) HasRights() bool { return s.level2() }

// HasRights is Service.HasRights.
func (a *Account) HasRights() bool { return a.s.HasRights() }

// folded is how identifiers and identities compare: normalized as SASLprep does
// (RFC 4013 2.2), in lower case, since the directory's attributes compare without
// case, with the domain in A-labels (RFC 5890), as that of an account is.
func folded(name string) string {
	name = norm.NFKC.String(strings.ToLower(norm.NFKC.String(name)))
	at := strings.LastIndexByte(name, '@') + 1
	if at > 0 && strings.ContainsFunc(name[at:], func(r rune) bool { return r >= utf8.RuneSelf }) {
		if domain, err := idna.Lookup.ToASCII(name[at:]); err == nil {
			name = name[:at] + domain
		}
	}
	return name
}

// Identifier returns an identifier as it is stored: folded, with the account's
// domain where it has none, and without the "group=" of the old servers; a "-" in
// front stays, which says that the rights are negative (RFC 4314 2). ErrIdentifier
// when it can be nobody's.
func (a *Account) Identifier(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", ErrIdentifier
	}
	name, negative := strings.CutPrefix(folded(name), Negative)
	name = strings.TrimPrefix(name, "group=")
	if name != "" && name != Anyone && !strings.Contains(name, "@") {
		_, domain, _ := strings.Cut(a.name, "@")
		name += "@" + domain
	}
	name, err := accountName(name)
	if err != nil || strings.HasPrefix(name, Negative) || strings.HasSuffix(name, "@") {
		return "", ErrIdentifier
	}
	if negative {
		name = Negative + name
	}
	return name, nil
}

// posters are the identities of who posts as identifiers are stored. What cannot
// be one is left out; of more than an entry holds the last says that there are.
func posters(names []string) (out []string) {
	for _, name := range names {
		name, err := accountName(folded(name))
		switch {
		case err != nil || name == Anyone:
		case len(out) == command.MaxPosters:
			out[len(out)-1] = mail.MoreIdentities
			return out
		default:
			out = append(out, name)
		}
	}
	return out
}

// Grants lists what others than the owner may do with a mailbox.
func (a *Account) Grants(ctx context.Context, name string) ([]Grant, error) {
	name, err := mailboxName(name)
	if err != nil {
		return nil, ErrNoMailbox
	}
	n, err := a.confirmed(ctx)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	m, _, err := a.find(n, name)
	if err != nil {
		return nil, err
	}
	list, err := n.RightsOf(a.id, m.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return a.grantsOf(name, list), nil
}

// AllGrants is Grants of every mailbox, by name.
func (a *Account) AllGrants(ctx context.Context) (map[string][]Grant, error) {
	n, err := a.confirmed(ctx)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	lists := map[uint64]*store.Rights{}
	if err := n.Rights(a.id, func(box uint64, r *store.Rights) { lists[box] = r }); err != nil {
		return nil, err
	}
	out := map[string][]Grant{}
	err = n.Mailboxes(a.id, func(m *store.Mailbox, _ *store.Counters) bool {
		out[m.Name] = a.grantsOf(m.Name, lists[m.ID])
		return true
	})
	return out, err
}

// grantsOf is what holds for the mailbox called name, with its list or nil.
func (a *Account) grantsOf(name string, list *store.Rights) (out []Grant) {
	switch {
	case name == "INBOX", list == nil && !a.s.owners():
		return []Grant{{Anyone, PostRight}}
	case list == nil:
		return nil
	}
	for _, g := range list.Grants {
		out = append(out, Grant{g.Identifier, command.Right(g.Rights).Letters()})
	}
	return out
}

// SetGrant changes what identifier, which Identifier has returned, may do with a
// mailbox. Taking away what nobody has is no error.
func (a *Account) SetGrant(ctx context.Context, name, identifier string, op StoreOp, rights string) error {
	name, err := mailboxName(name)
	if err != nil {
		return ErrNoMailbox
	}
	set, other := command.ParseRights(rights)
	switch {
	case !a.s.level2():
		return ErrLevel
	case strings.TrimPrefix(identifier, Negative) == a.name:
		return ErrOwner
	case op != StoreRemove && (other != "" || set&^command.RightPost != 0):
		return ErrNotShared
	}
	grants, err := a.Grants(ctx, name)
	if err != nil {
		return err
	}
	if name == "INBOX" {
		if i := slices.Index(grants, Grant{identifier, PostRight}); i >= 0 && (op == StoreAdd || op == StoreReplace && set != 0) {
			return nil
		}
		return ErrInbox
	}
	_, err = a.done(ctx, &command.Rights{
		Head: a.s.head(), Account: a.id, Name: name, Identifier: identifier, Action: command.StoreOp(op), Rights: set, Owners: a.s.owners(),
	})
	return err
}

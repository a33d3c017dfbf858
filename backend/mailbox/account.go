package mailbox

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/mail"
)

// bulk is how many messages one entry removes or moves at most.
const bulk = 20_000

// Account is one user's mailboxes. Any number of goroutines may use it.
type Account struct {
	s    *Service
	id   uint64
	name string
}

// Name is uid@domain.
func (a *Account) Name() string { return a.name }

// ID is the account's number, never used again.
func (a *Account) ID() uint64 { return a.id }

// uses spells the bits of command.Use (RFC 6154, RFC 8457).
var uses = []struct {
	bit  command.Use
	name string
}{
	{command.UseArchive, `\Archive`},
	{command.UseDrafts, `\Drafts`},
	{command.UseJunk, `\Junk`},
	{command.UseSent, `\Sent`},
	{command.UseTrash, `\Trash`},
	{command.UseImportant, `\Important`},
}

func infoOf(m *store.Mailbox, c *store.Counters) Info {
	info := Info{
		ID: m.ID, Name: m.Name, UIDValidity: m.UIDValidity, UIDNext: c.UIDNext, HighestModSeq: c.ModSeq,
		Messages: int(c.Messages), Unseen: int(c.Unseen), Deleted: int(c.Deleted), Size: c.Size, Keywords: m.Keywords,
	}
	for _, u := range uses {
		if command.Use(m.SpecialUse)&u.bit != 0 {
			info.SpecialUse = append(info.SpecialUse, u.name)
		}
	}
	return info
}

// confirmed is what there is of the account once this replica has confirmed that it
// serves.
func (a *Account) confirmed(ctx context.Context) (*store.Snapshot, error) {
	if err := a.s.cfg.Log.Confirm(ctx); err != nil {
		return nil, err
	}
	return a.s.cfg.Store.AccountSnapshot(a.id)
}

// List returns every mailbox, INBOX first and then in the order of names, with
// parents that do not exist and subscriptions without a mailbox as NonExistent.
func (a *Account) List(ctx context.Context) ([]Info, error) {
	n, err := a.confirmed(ctx)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	byName := map[string]*Info{}
	err = n.Mailboxes(a.id, func(m *store.Mailbox, c *store.Counters) bool {
		info := infoOf(m, c)
		byName[m.Name] = &info
		return true
	})
	if err != nil {
		return nil, err
	}
	ghost := func(name string) *Info {
		info := byName[name]
		if info == nil {
			info = &Info{Name: name, NonExistent: true}
			byName[name] = info
		}
		return info
	}
	if err := n.Subscriptions(a.id, func(name string) { ghost(name).Subscribed = true }); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	for _, name := range names {
		real := !byName[name].NonExistent
		for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
			if real {
				ghost(name[:i]).HasChildren = true
			}
		}
	}
	list := make([]Info, 0, len(byName))
	for _, info := range byName {
		list = append(list, *info)
	}
	slices.SortFunc(list, func(x, y Info) int {
		if (x.Name == "INBOX") != (y.Name == "INBOX") {
			if x.Name == "INBOX" {
				return -1
			}
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
	return list, nil
}

// find reads the mailbox called name; the name is clean.
func (a *Account) find(n *store.Snapshot, name string) (*store.Mailbox, *store.Counters, error) {
	var (
		found    *store.Mailbox
		counters *store.Counters
	)
	err := n.Mailboxes(a.id, func(m *store.Mailbox, c *store.Counters) bool {
		if m.Name == name {
			found, counters = m, c
		}
		return found == nil
	})
	if err == nil && found == nil {
		err = ErrNoMailbox
	}
	return found, counters, err
}

// Status describes one mailbox. Subscribed and HasChildren are List's.
func (a *Account) Status(ctx context.Context, name string) (Info, error) {
	name, err := mailboxName(name)
	if err != nil {
		return Info{}, ErrNoMailbox
	}
	if err := a.s.cfg.Log.Confirm(ctx); err != nil {
		return Info{}, err
	}
	return a.status(name)
}

// status describes a mailbox as it is here.
func (a *Account) status(name string) (Info, error) {
	n, err := a.s.cfg.Store.AccountSnapshot(a.id)
	if err != nil {
		return Info{}, err
	}
	defer n.Close()
	m, c, err := a.find(n, name)
	if err != nil {
		return Info{}, err
	}
	return infoOf(m, c), nil
}

func (a *Account) done(ctx context.Context, c command.Command) (*command.Done, error) {
	done, err := propose[*command.Done](ctx, a.s, c)
	if err != nil {
		return nil, err
	}
	return done, codeError(done.Code)
}

// Create makes a mailbox, with the special uses named (RFC 6154). Missing
// parents stay missing: they are shown as NonExistent.
func (a *Account) Create(ctx context.Context, name string, specialUse []string) (Info, error) {
	name, err := mailboxName(name)
	if err != nil {
		return Info{}, err
	}
	var use command.Use
	for _, want := range specialUse {
		bit := command.Use(0)
		for _, u := range uses {
			if strings.EqualFold(u.name, want) {
				bit = u.bit
			}
		}
		if bit == 0 {
			return Info{}, ErrSpecialUse
		}
		use |= bit
	}
	if _, err := a.done(ctx, &command.Create{Head: a.s.head(), Account: a.id, Name: name, SpecialUse: use}); err != nil {
		return Info{}, err
	}
	return a.status(name) // the entry is applied here, whoever serves now
}

// Delete removes a mailbox and its messages. INBOX cannot be deleted
// (ErrBadName).
func (a *Account) Delete(ctx context.Context, name string) error {
	name, err := mailboxName(name)
	if err != nil {
		return ErrNoMailbox
	}
	for {
		done, err := propose[*command.Done](ctx, a.s, &command.Delete{Head: a.s.head(), Account: a.id, Name: name, Limit: bulk})
		if err != nil {
			return err
		}
		if done.Code != command.Again {
			return codeError(done.Code)
		}
		if err := a.empty(ctx, done.Mailbox); err != nil {
			return err
		}
	}
}

// some returns the first n UIDs of a mailbox, below a limit.
func (a *Account) some(id uint64, n int, below uint32) (command.UIDSet, error) {
	snap, err := a.s.cfg.Store.MailboxSnapshot(id)
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	var set command.UIDSet
	scan := snap.Rows(id)
	for ok := scan.Seek(1); ok && n > 0 && scan.UID() < below; ok = scan.Next() {
		set = set.Add(scan.UID())
		n--
	}
	return set, scan.Err()
}

// Rename renames from and the mailboxes below it. INBOX stays: its messages
// move to the new mailbox (RFC 9051 6.3.6).
func (a *Account) Rename(ctx context.Context, from, to string) error {
	from, err := mailboxName(from)
	if err != nil {
		return ErrNoMailbox
	}
	if to, err = mailboxName(to); err != nil {
		return err
	}
	if _, err := a.done(ctx, &command.Rename{Head: a.s.head(), Account: a.id, From: from, To: to}); err != nil || from != "INBOX" {
		return err
	}
	box, err := a.Status(ctx, "INBOX")
	for err == nil {
		var uids command.UIDSet // what arrives meanwhile stays
		if uids, err = a.some(box.ID, bulk, box.UIDNext); err != nil || len(uids) == 0 {
			return err
		}
		var moved *command.Copied
		moved, err = propose[*command.Copied](ctx, a.s, &command.Copy{
			Head: a.s.head(), Account: a.id, Mailbox: box.ID, UIDs: uids, To: to, Move: true,
		})
		if err == nil {
			err = codeError(moved.Code)
		}
	}
	return err
}

// Subscribe adds name to the subscriptions or removes it; the mailbox need not
// exist.
func (a *Account) Subscribe(ctx context.Context, name string, on bool) error {
	name, err := mailboxName(name)
	if err != nil {
		return err
	}
	_, err = a.done(ctx, &command.Subscribe{Head: a.s.head(), Account: a.id, Name: name, On: on})
	return err
}

// Quota returns what the account uses and may use (-1: no limit).
func (a *Account) Quota(ctx context.Context) (bytes, messages int64, limit mail.Quota, err error) {
	if err = a.s.cfg.Log.Confirm(ctx); err != nil {
		return 0, 0, limit, err
	}
	u, err := a.s.usage(a.id)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNoAccount
	}
	return u.Bytes, u.Messages, u.Limit, err
}

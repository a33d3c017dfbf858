package fsm

import (
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// Limits of an account.
const (
	MaxMailboxes     = 10_000
	MaxSubscriptions = 10_000
)

// inbox is the name of the mailbox that every account has.
const inbox = "INBOX"

// account is an account with all its mailboxes, in memory.
type account struct {
	store.Account
	boxes      map[string]*mailbox // by name
	byID       map[uint64]*mailbox
	subscribed map[string]bool
	bytes      int64 // sum over the mailboxes
	count      int64
	dirty      bool // in FSM.owners
}

// mailbox is the state of one mailbox.
type mailbox struct {
	store.Mailbox
	owner *account
	n     store.Counters
	dirty bool // in FSM.boxes: rows of it wait in the batch
	gone  bool
}

// usual are the mailboxes an account begins with (RFC 6154).
var usual = []struct {
	name string
	use  command.Use
}{
	{inbox, 0},
	{"Archive", command.UseArchive},
	{"Drafts", command.UseDrafts},
	{"Junk", command.UseJunk},
	{"Sent", command.UseSent},
	{"Trash", command.UseTrash},
}

// lookup returns an account by name, nil when there is none.
func (f *FSM) lookup(name string) (*account, error) {
	if a := f.byName[name]; a != nil {
		return a, nil
	}
	return f.load(func(n *store.Snapshot) (uint64, error) { return n.AccountID(name) })
}

// owner returns an account by id, nil when there is none.
func (f *FSM) owner(id uint64) (*account, error) {
	if a := f.byID[id]; a != nil {
		return a, nil
	}
	return f.load(func(*store.Snapshot) (uint64, error) { return id, nil })
}

// mailbox returns a mailbox by the ids of its account and its own, nil when
// there is none.
func (f *FSM) mailbox(account, id uint64) (*mailbox, error) {
	a, err := f.owner(account)
	if a == nil || err != nil {
		return nil, err
	}
	return a.byID[id], nil
}

// load reads an account that is not in memory. What is not in memory has no
// changes in the batch: accounts leave only after a commit.
func (f *FSM) load(find func(*store.Snapshot) (uint64, error)) (*account, error) {
	n, err := f.store.Snapshot()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	id, err := find(n)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := newAccount()
	a.Account, err = n.Account(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = n.Mailboxes(id, func(m *store.Mailbox) bool {
		a.add(&mailbox{Mailbox: *m})
		return true
	})
	if err != nil {
		return nil, err
	}
	err = n.AllCounters(id, func(box uint64, c *store.Counters) {
		if m := a.byID[box]; m != nil {
			m.n = *c
			a.bytes += c.Size
			a.count += int64(c.Messages)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := n.Subscriptions(id, func(name string) { a.subscribed[name] = true }); err != nil {
		return nil, err
	}
	f.keep(a)
	return a, nil
}

func newAccount() *account {
	return &account{
		boxes:      make(map[string]*mailbox, len(usual)),
		byID:       make(map[uint64]*mailbox, len(usual)),
		subscribed: make(map[string]bool, len(usual)),
	}
}

func (a *account) add(m *mailbox) {
	m.owner = a
	a.boxes[m.Name], a.byID[m.ID] = m, m
}

func (f *FSM) keep(a *account) { f.byID[a.ID], f.byName[a.Name] = a, a }

// evict forgets accounts beyond the bound. Any will do: the choice changes
// nothing but speed.
func (f *FSM) evict() {
	if len(f.byID) <= f.cfg.Accounts {
		return
	}
	for id, a := range f.byID {
		delete(f.byID, id)
		delete(f.byName, a.Name)
		if len(f.byID) <= f.cfg.Accounts*7/8 {
			return
		}
	}
}

// openAccount returns an account, making it when it is missing.
func (f *FSM) openAccount(name string, seed uint32) (*account, error) {
	a, err := f.lookup(name)
	if a != nil || err != nil {
		return a, err
	}
	a = newAccount()
	f.st.NextID++
	a.Account = store.Account{ID: f.st.NextID, Name: name, UIDValidity: max(seed, 1) - 1, LimitBytes: -1, LimitCount: -1}
	f.keep(a)
	for _, u := range usual {
		f.make(a, u.name, u.use)
		f.setSubscribed(a, u.name, true)
	}
	return a, nil
}

// make makes a mailbox. The name is free.
func (f *FSM) make(a *account, name string, use command.Use) *mailbox {
	f.st.NextID++
	if a.UIDValidity == math.MaxUint32 { // four billion mailboxes later
		a.UIDValidity = 0
	}
	a.UIDValidity++
	f.touchAccount(a)
	m := &mailbox{Mailbox: store.Mailbox{
		ID: f.st.NextID, Account: a.ID, Name: name, UIDValidity: a.UIDValidity, SpecialUse: uint32(use),
	}}
	m.n = store.Counters{UIDNext: 1, ModSeq: 1}
	a.add(m)
	f.batch.PutMailbox(&m.Mailbox)
	f.touch(m)
	return m
}

// touch notes that m's counters changed, or rows of it.
func (f *FSM) touch(m *mailbox) {
	if !m.dirty {
		m.dirty = true
		f.boxes = append(f.boxes, m)
		f.wake = append(f.wake, m.ID)
	}
}

func (f *FSM) touchAccount(a *account) {
	if !a.dirty {
		a.dirty = true
		f.owners = append(f.owners, a)
	}
}

func (f *FSM) setSubscribed(a *account, name string, on bool) {
	if a.subscribed[name] == on {
		return
	}
	if on {
		a.subscribed[name] = true
	} else {
		delete(a.subscribed, name)
	}
	f.batch.PutSubscribed(a.ID, name, on)
}

// hasChildren reports whether a mailbox below name exists.
func (a *account) hasChildren(name string) bool {
	for other := range a.boxes {
		if isBelow(other, name) {
			return true
		}
	}
	return false
}

func isBelow(name, parent string) bool {
	return len(name) > len(parent) && name[len(parent)] == '/' && strings.HasPrefix(name, parent)
}

func (f *FSM) create(c *command.Create) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	if m := a.boxes[c.Name]; m != nil {
		return &command.Done{Code: command.Exists, Account: a.ID, Mailbox: m.ID}, nil
	}
	if len(a.boxes) >= MaxMailboxes {
		return &command.Done{Code: command.AtLimit}, nil
	}
	m := f.make(a, c.Name, c.SpecialUse)
	return &command.Done{Account: a.ID, Mailbox: m.ID}, nil
}

func (f *FSM) deleteMailbox(c *command.Delete) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	m := a.boxes[c.Name]
	switch {
	case m == nil && a.hasChildren(c.Name):
		return &command.Done{Code: command.HasChildren}, nil
	case m == nil:
		return &command.Done{Code: command.NoMailbox}, nil
	case c.Name == inbox:
		return &command.Done{Code: command.NotAllowed}, nil
	case m.n.Messages > c.Limit:
		return &command.Done{Code: command.Again, Account: a.ID, Mailbox: m.ID}, nil
	}
	if err := f.settle(m); err != nil {
		return nil, err
	}
	if _, err := f.take(m, everything, false, func(*store.Row) bool { return true }); err != nil {
		return nil, err
	}
	delete(a.boxes, m.Name)
	delete(a.byID, m.ID)
	f.batch.DeleteMailbox(&m.Mailbox, &m.n)
	m.gone = true
	f.wake = append(f.wake, m.ID)
	return &command.Done{Account: a.ID, Mailbox: m.ID}, nil
}

func (f *FSM) rename(c *command.Rename) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	m := a.boxes[c.From]
	var moved []*mailbox
	if m != nil && c.From != inbox {
		moved = append(moved, m)
	}
	if c.From != inbox { // RFC 9051 6.3.6: children of INBOX stay
		for name, child := range a.boxes {
			if isBelow(name, c.From) {
				moved = append(moved, child)
			}
		}
	}
	switch {
	case m == nil && len(moved) == 0:
		return &command.Done{Code: command.NoMailbox}, nil
	case c.To == inbox, c.From == c.To, a.boxes[c.To] != nil:
		return &command.Done{Code: command.Exists}, nil
	case c.From != inbox && isBelow(c.To, c.From):
		return &command.Done{Code: command.NotAllowed}, nil
	}
	if c.From == inbox {
		if len(a.boxes) >= MaxMailboxes {
			return &command.Done{Code: command.AtLimit}, nil
		}
		to := f.make(a, c.To, 0)
		return &command.Done{Account: a.ID, Mailbox: to.ID}, nil
	}
	slices.SortFunc(moved, func(x, y *mailbox) int { return strings.Compare(x.Name, y.Name) })
	for _, b := range moved {
		if a.boxes[c.To+b.Name[len(c.From):]] != nil {
			return &command.Done{Code: command.Exists}, nil
		}
	}
	for _, b := range moved {
		delete(a.boxes, b.Name)
	}
	for _, b := range moved {
		b.Name = c.To + b.Name[len(c.From):]
		a.boxes[b.Name] = b
		f.batch.PutMailbox(&b.Mailbox)
		f.wake = append(f.wake, b.ID)
	}
	return &command.Done{Account: a.ID, Mailbox: moved[0].ID}, nil
}

func (f *FSM) subscribe(c *command.Subscribe) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	if c.On && len(a.subscribed) >= MaxSubscriptions && !a.subscribed[c.Name] {
		return &command.Done{Code: command.AtLimit}, nil
	}
	f.setSubscribed(a, c.Name, c.On)
	return &command.Done{Account: a.ID}, nil
}

func (f *FSM) quota(c *command.Quota) (any, error) {
	a, err := f.openAccount(c.Account, c.Seed)
	if err != nil {
		return nil, err
	}
	f.setLimit(a, &c.Limit)
	return &command.Done{Account: a.ID}, nil
}

// setLimit takes over what the directory says, unless it is older than what
// is known. Stamps compare as strings: generalizedTime and CSN both sort so.
func (f *FSM) setLimit(a *account, l *command.Limit) {
	if l.Stamp < a.LimitStamp || l.Stamp == a.LimitStamp && l.Bytes == a.LimitBytes && l.Messages == a.LimitCount {
		return
	}
	a.LimitBytes, a.LimitCount, a.LimitStamp = max(l.Bytes, -1), max(l.Messages, -1), l.Stamp
	f.touchAccount(a)
}

// room says whether n messages of bytes octets fit the quota.
func (a *account) room(bytes, n int64) command.Code {
	switch {
	case a.LimitBytes == 0 || a.LimitCount == 0:
		return command.QuotaZero
	case a.LimitBytes > 0 && bytes > a.LimitBytes-a.bytes, a.LimitCount > 0 && n > a.LimitCount-a.count:
		return command.OverQuota
	}
	return command.OK
}

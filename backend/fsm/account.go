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
	move  store.Move          // where it goes, if it does
	boxes []*mailbox          // in the order of names
	ids   map[uint64]*mailbox // of more than fewBoxes
	names map[string]bool     // subscriptions, nil until they are needed
	bytes int64               // sum over the mailboxes
	count int64
	dirty bool // in FSM.owners
}

// fewBoxes is how many mailboxes are searched one by one.
const fewBoxes = 32

// mailbox is the state of one mailbox.
type mailbox struct {
	store.Mailbox
	owner  *account
	n      store.Counters
	rights *store.Rights // nil: it has no list of rights
	dirty  bool          // in FSM.boxes: rows of it wait in the batch
	gone   bool
}

func (a *account) place(name string) (int, bool) {
	return slices.BinarySearchFunc(a.boxes, name, func(m *mailbox, name string) int { return strings.Compare(m.Name, name) })
}

// box returns a mailbox by name, nil when there is none.
func (a *account) box(name string) *mailbox {
	if i, ok := a.place(name); ok {
		return a.boxes[i]
	}
	return nil
}

// boxByID returns a mailbox by id, nil when there is none.
func (a *account) boxByID(id uint64) *mailbox {
	if a.ids != nil {
		return a.ids[id]
	}
	for _, m := range a.boxes {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// add puts in m, whose name is free.
func (a *account) add(m *mailbox) {
	m.owner = a
	i, _ := a.place(m.Name)
	a.boxes = slices.Insert(a.boxes, i, m)
	if a.ids == nil && len(a.boxes) > fewBoxes {
		a.ids = make(map[uint64]*mailbox, 2*fewBoxes)
		for _, m := range a.boxes {
			a.ids[m.ID] = m
		}
	}
	if a.ids != nil {
		a.ids[m.ID] = m
	}
}

// drop takes m out.
func (a *account) drop(m *mailbox) {
	if i, ok := a.place(m.Name); ok {
		a.boxes = slices.Delete(a.boxes, i, i+1)
	}
	delete(a.ids, m.ID)
}

// below returns the mailboxes below name, in the order of names.
func (a *account) below(name string) []*mailbox {
	first, _ := a.place(name + "/")
	n := first
	for n < len(a.boxes) && isBelow(a.boxes[n].Name, name) {
		n++
	}
	return a.boxes[first:n]
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
	id, err := f.store.AccountID(name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return f.load(id)
}

// owner returns an account by id, nil when there is none.
func (f *FSM) owner(id uint64) (*account, error) {
	if a := f.byID[id]; a != nil {
		return a, nil
	}
	return f.load(id)
}

// mailbox returns a mailbox by the ids of its account and its own, nil when
// there is none.
func (f *FSM) mailbox(account, id uint64) (*mailbox, error) {
	a, err := f.owner(account)
	if a == nil || err != nil {
		return nil, err
	}
	return a.boxByID(id), nil
}

// load reads an account that is not in memory, nil when there is none. What is
// not in memory has no changes in the batch: accounts leave only after a commit.
func (f *FSM) load(id uint64) (*account, error) {
	n, err := f.store.AccountSnapshot(id)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	a := new(account)
	a.Account, err = n.Account(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if a.move, err = f.store.Move(a.Name); err != nil {
		return nil, err
	}
	err = n.Mailboxes(id, func(m *store.Mailbox, c *store.Counters) bool {
		a.add(&mailbox{Mailbox: *m, n: *c})
		a.bytes += c.Size
		a.count += int64(c.Messages)
		return true
	})
	if err == nil {
		err = n.Rights(id, func(box uint64, r *store.Rights) {
			if m := a.boxByID(box); m != nil {
				m.rights = r
			}
		})
	}
	if err != nil {
		return nil, err
	}
	f.keep(a)
	return a, nil
}

// subscriptions returns the names that a is subscribed to. They are kept in
// memory once read.
func (f *FSM) subscriptions(a *account) (map[string]bool, error) {
	if a.names != nil {
		return a.names, nil
	}
	n, err := f.store.AccountSnapshot(a.ID)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	names := make(map[string]bool)
	if err := n.Subscriptions(a.ID, func(name string) { names[name] = true }); err != nil {
		return nil, err
	}
	a.names = names
	return names, nil
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
	was, err := f.store.Move(name)
	if err != nil {
		return nil, err
	}
	f.st.NextID++
	a = &account{names: make(map[string]bool), move: was}
	a.Account = store.Account{ID: f.st.NextID, Name: name, UIDValidity: max(seed, 1) - 1, LimitBytes: -1, LimitCount: -1}
	f.keep(a)
	for _, u := range usual {
		f.make(a, u.name, u.use)
		if err := f.setSubscribed(a, u.name, true); err != nil {
			return nil, err
		}
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

func (f *FSM) setSubscribed(a *account, name string, on bool) error {
	names, err := f.subscriptions(a)
	if err != nil || names[name] == on {
		return err
	}
	if on {
		names[name] = true
	} else {
		delete(names, name)
	}
	f.batch.PutSubscribed(a.ID, name, on)
	return nil
}

func isBelow(name, parent string) bool {
	return len(name) > len(parent) && name[len(parent)] == '/' && strings.HasPrefix(name, parent)
}

func (f *FSM) create(c *command.Create) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	if f.closed(a) {
		return &command.Done{Code: command.Moving}, nil
	}
	if m := a.box(c.Name); m != nil {
		return &command.Done{Code: command.Exists, Account: a.ID, Mailbox: m.ID}, nil
	}
	if len(a.boxes) >= MaxMailboxes {
		return &command.Done{Code: command.AtLimit}, nil
	}
	m := f.makeBelow(a, c.Name, c.SpecialUse)
	return &command.Done{Account: a.ID, Mailbox: m.ID}, nil
}

func (f *FSM) deleteMailbox(c *command.Delete) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	m := a.box(c.Name)
	switch {
	case f.closed(a):
		return &command.Done{Code: command.Moving}, nil
	case m == nil && len(a.below(c.Name)) > 0:
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
	if err := f.takeMailbox(m); err != nil {
		return nil, err
	}
	a.drop(m)
	return &command.Done{Account: a.ID, Mailbox: m.ID}, nil
}

// removeAccount takes an account away. Its delivery keys stay until they expire,
// so that a delivery that is repeated is answered as it was.
func (f *FSM) removeAccount(c *command.Remove) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	if f.closed(a) {
		return &command.Done{Code: command.Moving}, nil
	}
	var most *mailbox
	var count uint64
	for _, m := range a.boxes {
		count += uint64(m.n.Messages)
		if most == nil || m.n.Messages > most.n.Messages {
			most = m
		}
	}
	if count > uint64(c.Limit) {
		return &command.Done{Code: command.Again, Account: a.ID, Mailbox: most.ID}, nil
	}
	return &command.Done{Account: a.ID}, f.takeAccount(a)
}

// takeAccount takes away a with all that belongs to it.
func (f *FSM) takeAccount(a *account) error {
	if f.commit(); f.failed != nil { // rows that wait could not be read
		return f.failed
	}
	for _, m := range a.boxes {
		if err := f.takeMailbox(m); err != nil {
			return err
		}
	}
	if err := f.batch.DeleteAccount(&a.Account); err != nil {
		return err
	}
	a.boxes, a.ids = nil, nil
	delete(f.byID, a.ID)
	delete(f.byName, a.Name)
	f.settled = true
	return nil
}

// takeMailbox takes away m, which is settled; its account still lists it.
func (f *FSM) takeMailbox(m *mailbox) error {
	if _, err := f.take(m, everything, false, func(*store.Row) bool { return true }); err != nil {
		return err
	}
	f.setRights(m, nil)
	f.batch.DeleteMailbox(&m.Mailbox, &m.n)
	m.gone = true
	f.wake = append(f.wake, m.ID)
	return nil
}

func (f *FSM) rename(c *command.Rename) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	if f.closed(a) {
		return &command.Done{Code: command.Moving}, nil
	}
	if c.From == inbox {
		return f.renameInbox(a, c.To), nil
	}
	var moved []*mailbox
	if m := a.box(c.From); m != nil {
		moved = append(moved, m)
	}
	moved = append(moved, a.below(c.From)...)
	switch {
	case len(moved) == 0:
		return &command.Done{Code: command.NoMailbox}, nil
	case isBelow(c.To, c.From):
		return &command.Done{Code: command.NotAllowed}, nil
	}
	for _, m := range moved {
		if a.box(c.To+m.Name[len(c.From):]) != nil {
			return &command.Done{Code: command.Exists}, nil
		}
	}
	for _, m := range moved {
		a.drop(m)
		m.Name = c.To + m.Name[len(c.From):]
		a.add(m)
		f.batch.PutMailbox(&m.Mailbox)
		f.wake = append(f.wake, m.ID)
	}
	return &command.Done{Account: a.ID, Mailbox: moved[0].ID}, nil
}

// renameInbox makes the mailbox that INBOX's messages move to; its children
// stay (RFC 9051 6.3.6).
func (f *FSM) renameInbox(a *account, to string) *command.Done {
	switch {
	case a.box(to) != nil:
		return &command.Done{Code: command.Exists}
	case len(a.boxes) >= MaxMailboxes:
		return &command.Done{Code: command.AtLimit}
	}
	return &command.Done{Account: a.ID, Mailbox: f.makeBelow(a, to, 0).ID}
}

func (f *FSM) subscribe(c *command.Subscribe) (any, error) {
	a, err := f.owner(c.Account)
	if a == nil || err != nil {
		return &command.Done{Code: command.NoAccount}, err
	}
	if f.closed(a) {
		return &command.Done{Code: command.Moving}, nil
	}
	names, err := f.subscriptions(a)
	if err != nil {
		return nil, err
	}
	if c.On && len(names) >= MaxSubscriptions && !names[c.Name] {
		return &command.Done{Code: command.AtLimit}, nil
	}
	return &command.Done{Account: a.ID}, f.setSubscribed(a, c.Name, c.On)
}

func (f *FSM) quota(c *command.Quota) (any, error) {
	if code, _, err := f.elsewhere(c.Account); code != command.OK || err != nil {
		return &command.Done{Code: code}, err
	}
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
	bytes, count := max(l.Bytes, -1), max(l.Messages, -1)
	if l.Stamp < a.LimitStamp || l.Stamp == a.LimitStamp && bytes == a.LimitBytes && count == a.LimitCount {
		return
	}
	a.LimitBytes, a.LimitCount, a.LimitStamp = bytes, count, l.Stamp
	f.touchAccount(a)
}

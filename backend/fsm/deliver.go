package fsm

import (
	"math"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// maxKeyLife bounds how long a delivery key is remembered.
const maxKeyLife = int64(400 * 24 * time.Hour)

func (f *FSM) deliver(e *Entry, c *command.Deliver) (any, error) {
	if err := f.prune(); err != nil {
		return nil, err
	}
	m := stored(e, &c.Message, len(c.Tail), 0)
	ans := &command.Delivered{Message: m.ID, Recipients: make([]command.DeliveredTo, len(c.Recipients))}
	life := min(max(c.KeyLife, 0), maxKeyLife)
	f.expiry = f.expiry[:0]
	for i := range c.Recipients {
		to := &ans.Recipients[i]
		if err := f.deliverTo(to, c, &c.Recipients[i], &m); err != nil {
			return nil, err
		}
		if to.UID != 0 && !to.Duplicate {
			m.Refs++
		}
	}
	if len(f.expiry) > 0 {
		at := f.now + life
		f.batch.PutExpiry(at, e.Index, f.expiry)
		f.due = min(f.due, at)
	}
	return ans, f.keepMessage(e, &m)
}

// stored is the row of a message that an entry brings in. n tells the
// messages of one entry apart.
func stored(e *Entry, c *command.Message, tail, n int) store.Message {
	m := store.Message{ID: c.ID, Size: c.Size, Hash: c.Hash, Meta: c.Meta}
	if m.ID == 0 {
		m.ID = e.Index<<store.MessageBits | uint64(n)
	}
	m.Body = make([]store.Extent, len(c.Body))
	for i, x := range c.Body {
		m.Body[i] = store.Extent{Index: x.Index, Off: x.Off, Len: x.Len}
		if x.Index == 0 {
			m.Body[i].Index = e.Index
			m.Body[i].Off += uint32(len(e.Data) - tail)
		}
	}
	return m
}

// keepMessage stores the message for its m.Refs new references, or counts its
// octets as dead when nobody took it. Octets in earlier entries were counted
// as dead until now.
func (f *FSM) keepMessage(e *Entry, m *store.Message) error {
	if m.Refs == 0 {
		for _, x := range m.Body {
			if x.Index == e.Index {
				f.batch.AddDead(x.Index, int64(x.Len))
			}
		}
		return nil
	}
	if m.ID>>store.MessageBits != e.Index { // an earlier entry of the same delivery may have stored it
		refs, err := f.batch.Refs(m.ID)
		if err != nil {
			return err
		}
		if refs > 0 {
			return f.batch.AddRefs(m.ID, int(m.Refs))
		}
	}
	f.batch.PutMessage(m)
	for _, x := range m.Body {
		if x.Index != e.Index {
			f.batch.AddDead(x.Index, -int64(x.Len))
		}
	}
	return nil
}

func (f *FSM) deliverTo(to *command.DeliveredTo, c *command.Deliver, rc *command.Recipient, m *store.Message) error {
	if rc.Key != (command.Key{}) {
		seen, err := f.seen(to, rc, m)
		if seen || err != nil {
			return err
		}
	}
	code, gone, err := f.elsewhere(rc.Account)
	if code != command.OK || err != nil {
		to.Code, to.Peer, to.Epoch = code, gone.Peer, gone.Since
		return err
	}
	if q := rc.Autoreply; q != nil && q.By != (command.Key{}) { // who is gone answers nobody
		a, err := f.lookup(rc.Account)
		if a == nil || err != nil {
			return err
		}
		to.Answer, err = f.answer(a, q)
		return err
	}
	a, err := f.openAccount(rc.Account, c.Seed)
	if err != nil {
		return err
	}
	if rc.Limit != nil {
		f.setLimit(a, rc.Limit)
	}
	if q := rc.Autoreply; q != nil && q.Only {
		if to.Answer, err = f.answer(a, q); err != nil {
			return err
		}
		f.remember(to, rc, m, a, 0)
		return nil
	}
	if !rc.Force {
		if to.Code = a.room(m.Size, 1); to.Code != command.OK {
			return nil
		}
	}
	box, err := f.folder(a, rc, c.Owners)
	if err != nil {
		return err
	}
	to.Refused = box == nil
	if to.Refused {
		box = a.box(inbox)
	}
	if box.n.UIDNext == math.MaxUint32 {
		to.Code = command.AtLimit
		return nil
	}
	flags := rc.Flags & systemFlags
	if len(rc.Keywords) > 0 {
		bits, _ := f.keywords(box, rc.Keywords) // those that fit
		flags |= bits
	}
	box.n.ModSeq++
	w := store.Row{
		Flags: flags, ModSeq: box.n.ModSeq, Created: box.n.ModSeq,
		InternalDate: c.InternalDate, SaveDate: c.Time, Size: m.Size, MessageID: m.ID,
	}
	f.add(box, &w)
	to.Mailbox, to.UIDValidity, to.UID = box.Name, box.UIDValidity, w.UID
	if rc.Autoreply != nil {
		if to.Answer, err = f.answer(a, rc.Autoreply); err != nil {
			return err
		}
	}
	f.remember(to, rc, m, a, box.ID)
	return nil
}

// remember keeps what became of a recipient under its key.
func (f *FSM) remember(to *command.DeliveredTo, rc *command.Recipient, m *store.Message, a *account, box uint64) {
	if rc.Key == (command.Key{}) {
		return
	}
	d := store.Delivered{Hash: m.Hash, Mailbox: box, UIDValidity: to.UIDValidity, UID: to.UID, Answer: to.Answer}
	if f.Level() > 1 { // what the release before reads has no room for it
		d.Account = a.ID
	}
	f.batch.PutDelivered(rc.Key, &d)
	f.keys[rc.Key] = d
	f.expiry = append(f.expiry, rc.Key[:]...)
}

// seen reports whether the recipient's key is known, and answers as then.
func (f *FSM) seen(to *command.DeliveredTo, rc *command.Recipient, m *store.Message) (bool, error) {
	d, ok, err := f.delivered(rc.Key)
	if !ok || err != nil {
		return false, err
	}
	if d.Hash != m.Hash {
		to.Code = command.KeyMismatch
		if f.cfg.Mismatch != nil {
			f.cfg.Mismatch(rc.Account, rc.Key)
		}
		return true, nil
	}
	to.Duplicate, to.UIDValidity, to.UID, to.Answer = true, d.UIDValidity, d.UID, d.Answer
	a, err := f.lookup(rc.Account)
	if a == nil || err != nil {
		return true, err
	}
	if box := a.boxByID(d.Mailbox); box != nil {
		to.Mailbox = box.Name
	}
	if q := rc.Autoreply; d.Answer && q != nil && q.Later {
		to.Answer, err = f.stillDue(a, q)
	}
	return true, err
}

// folder returns the mailbox a delivery goes to, nil when it is there and who
// posts has not the right to.
func (f *FSM) folder(a *account, rc *command.Recipient, owners bool) (*mailbox, error) {
	name := rc.Folder
	if name == "" {
		name = inbox
	}
	if m := a.box(name); m != nil {
		if !m.takesFrom(rc.Poster, owners) {
			m = nil
		}
		return m, nil
	}
	if !rc.Create || len(a.boxes) >= MaxMailboxes {
		return a.box(inbox), nil
	}
	names, err := f.subscriptions(a)
	if err == nil && len(names) < MaxSubscriptions {
		err = f.setSubscribed(a, name, true)
	}
	if err != nil {
		return nil, err
	}
	return f.makeBelow(a, name, 0), nil
}

func (f *FSM) append(e *Entry, c *command.AppendMessages) (any, error) {
	a, err := f.owner(c.Account)
	if err != nil {
		return nil, err
	}
	ans := &command.AppendedTo{Code: command.NoAccount}
	if a != nil {
		ans.Code = f.mayAppend(a, c)
	}
	if ans.Code != command.OK {
		for i := range c.Messages {
			m := stored(e, &c.Messages[i].Message, len(c.Tail), i)
			if err := f.keepMessage(e, &m); err != nil {
				return nil, err
			}
		}
		return ans, nil
	}
	box := a.box(c.Name)
	ans.UIDValidity, ans.FirstUID = box.UIDValidity, box.n.UIDNext
	if len(c.Messages) == 0 {
		return ans, nil
	}
	box.n.ModSeq++
	for i := range c.Messages {
		in := &c.Messages[i]
		bits, _ := f.keywords(box, in.Keywords)
		m := stored(e, &in.Message, len(c.Tail), i)
		m.Refs = 1
		w := store.Row{
			Flags: in.Flags&systemFlags | bits, ModSeq: box.n.ModSeq, Created: box.n.ModSeq,
			InternalDate: in.InternalDate, SaveDate: c.Time, Size: m.Size, MessageID: m.ID,
		}
		f.add(box, &w)
		if err := f.keepMessage(e, &m); err != nil {
			return nil, err
		}
	}
	return ans, nil
}

func (f *FSM) mayAppend(a *account, c *command.AppendMessages) command.Code {
	if f.closed(a) {
		return command.Moving
	}
	box := a.box(c.Name)
	if box == nil {
		return command.NoMailbox
	}
	if uint64(box.n.UIDNext)+uint64(len(c.Messages)) > math.MaxUint32 {
		return command.AtLimit
	}
	var size int64
	for i := range c.Messages {
		size += c.Messages[i].Message.Size
	}
	return a.room(size, int64(len(c.Messages)))
}

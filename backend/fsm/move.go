package fsm

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// closed reports whether a takes nothing now: it is on its way to another pair,
// has gone there, or is being filled.
func (f *FSM) closed(a *account) bool { return a.move.Closed(f.now) }

// moveOf returns the move of an account, and the account, nil when there is none.
func (f *FSM) moveOf(name string) (*account, store.Move, error) {
	a, err := f.lookup(name)
	if err != nil {
		return nil, store.Move{}, err
	}
	if a != nil {
		return a, a.move, nil
	}
	m, err := f.store.Move(name)
	return nil, m, err
}

// elsewhere says whether an account, which need not be there, takes something:
// OK, or Moving with the move as far as whoever asks may know it.
func (f *FSM) elsewhere(name string) (command.Code, store.Move, error) {
	_, m, err := f.moveOf(name)
	if err != nil || !m.Closed(f.now) {
		return command.OK, m, err
	}
	if m.State != store.MoveGone {
		m.Peer = ""
	}
	return command.Moving, m, nil
}

// move takes a step. All that it does is committed before the next entry.
func (f *FSM) move(c *command.Move) (any, error) {
	a, m, err := f.moveOf(c.Account)
	if err != nil {
		return nil, err
	}
	if a != nil && a.dirtyRows() {
		if f.commit(); f.failed != nil {
			return nil, f.failed
		}
	}
	was := m
	code := command.OK
	ours := m.Token == [16]byte(c.Token)
	switch c.Step {
	case command.MoveAnnounce:
		switch {
		case m.State == store.MoveGone && m.Closed(f.now), m.State == store.MoveArrives:
			code = command.Moving
		case a == nil:
			code = command.NoAccount
		default:
			f.turn(&m, store.MoveCopied, c)
		}
	case command.MoveFence:
		switch {
		case m.State == store.MoveFenced && ours && m.Closed(f.now):
		case (m.State == store.MoveCopied || m.State == store.MoveFenced) && ours:
			m.State, m.Since = store.MoveFenced, f.now
		default:
			code = command.Moving
		}
	case command.MoveStay:
		if (m.State != store.MoveCopied && m.State != store.MoveFenced) || !ours {
			code = command.Moving
			break
		}
		m.State = 0
	case command.MoveGone:
		switch {
		case m.State == store.MoveGone && ours:
		case m.State == store.MoveFenced && ours && m.Closed(f.now):
			m.State, m.Since = store.MoveGone, f.now
		default:
			code = command.Moving
		}
	case command.MoveArrive:
		switch {
		case m.State == store.MoveArrives && ours:
		case m.State != 0 && m.State != store.MoveGone:
			code = command.Moving
		case a != nil:
			code = command.Exists
		default:
			f.turn(&m, store.MoveArrives, c)
		}
	case command.MoveOpen:
		switch {
		case m.State == store.MoveArrives && ours && a != nil:
			m.State = 0
		case m.State == 0 && a != nil: // it was opened already
		default:
			code = command.Moving
		}
	case command.MoveDrop:
		return f.dropMoved(c, a, m)
	}
	if code == command.OK && m != was {
		f.setMove(c.Account, a, m)
	}
	done := &command.Done{Code: code}
	if a != nil {
		done.Account = a.ID
	}
	return done, nil
}

func (f *FSM) turn(m *store.Move, to store.MoveState, c *command.Move) {
	m.State, m.Peer, m.Token, m.Since = to, c.Peer, [16]byte(c.Token), f.now
}

// setMove writes the move of an account, and wakes who looks at it.
func (f *FSM) setMove(name string, a *account, m store.Move) {
	f.batch.PutMove(name, &m)
	if a != nil {
		a.move = m
		for _, box := range a.boxes {
			f.wake = append(f.wake, box.ID)
		}
	}
	f.settled = true
}

// dirtyRows reports whether rows of a wait in the batch.
func (a *account) dirtyRows() bool {
	return a.dirty || slices.ContainsFunc(a.boxes, func(m *mailbox) bool { return m.dirty })
}

// dropMoved takes away what is left of an account that has gone, or what has come
// of one that does not come after all: it is still where it was then.
func (f *FSM) dropMoved(c *command.Move, a *account, m store.Move) (any, error) {
	switch {
	case m.State != store.MoveGone && m.State != store.MoveArrives:
		return &command.Done{Code: command.Moving}, nil
	case a != nil:
		more, err := f.takeSome(a, int64(c.Limit))
		if err != nil {
			return nil, err
		}
		if more {
			f.settled = true
			return &command.Done{Code: command.Again, Account: a.ID}, nil
		}
		if err := f.takeAccount(a); err != nil {
			return nil, err
		}
	}
	if m.State == store.MoveArrives {
		m.State, m.Since = store.MoveGone, f.now
		f.setMove(c.Account, nil, m)
	}
	return &command.Done{}, nil
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// takeSome takes away at most limit messages of a, and reports whether more are
// left.
func (f *FSM) takeSome(a *account, limit int64) (more bool, err error) {
	if a.count <= limit {
		return false, nil
	}
	for _, m := range a.boxes {
		var set command.UIDSet
		err := f.each(m, everything, func(w *store.Row) error {
			if limit <= 0 {
				return errEnough
			}
			set = set.Add(w.UID)
			limit--
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return false, err
		}
		if _, err := f.take(m, set, false, func(*store.Row) bool { return true }); err != nil {
			return false, err
		}
	}
	return true, nil
}

// importInto fills an account that arrives.
func (f *FSM) importInto(e *Entry, c *command.Import) (any, error) {
	a, m, err := f.moveOf(c.Account)
	if err != nil {
		return nil, err
	}
	if m.State != store.MoveArrives || m.Token != [16]byte(c.Token) {
		for i := range c.Rows { // what it brings has no taker
			if in := c.Rows[i].Message; in != nil {
				msg := stored(e, in, len(c.Tail), 0)
				if err := f.keepMessage(e, &msg); err != nil {
					return nil, err
				}
			}
		}
		return &command.Done{Code: command.Moving}, nil
	}
	if f.commit(); f.failed != nil { // rows that wait could not be read
		return nil, f.failed
	}
	if a == nil {
		f.st.NextID++
		a = &account{names: make(map[string]bool), move: m}
		a.Account = store.Account{ID: f.st.NextID, Name: c.Account, LimitBytes: -1, LimitCount: -1}
		f.keep(a)
		f.touchAccount(a)
	}
	f.settled = true
	if c.Mailbox != nil {
		if err := f.importMailbox(e, c, a); err != nil {
			return nil, err
		}
	}
	if c.Self != nil {
		if err := f.importSelf(c.Self, a); err != nil {
			return nil, err
		}
	}
	return &command.Done{Account: a.ID}, f.importMemory(e, c, a)
}

// boxByValidity returns a mailbox by its UIDVALIDITY, nil when there is none.
func (a *account) boxByValidity(v uint32) *mailbox {
	for _, m := range a.boxes {
		if m.UIDValidity == v {
			return m
		}
	}
	return nil
}

func (f *FSM) importMailbox(e *Entry, c *command.Import, a *account) error {
	in := c.Mailbox
	box := a.boxByValidity(in.UIDValidity)
	// Names that changed hands in the other pair meanwhile come one by one.
	if other := a.box(in.Name); other != nil && other != box {
		a.drop(other)
		other.Name = fmt.Sprintf("\x00%d", other.UIDValidity)
		a.add(other)
		f.batch.PutMailbox(&other.Mailbox)
	}
	if box == nil {
		f.st.NextID++
		box = &mailbox{Mailbox: store.Mailbox{ID: f.st.NextID, Account: a.ID, Name: in.Name, UIDValidity: in.UIDValidity}}
		box.n = store.Counters{UIDNext: 1, ModSeq: 1}
		a.add(box)
	} else if box.Name != in.Name {
		a.drop(box)
		box.Name = in.Name
		a.add(box)
	}
	box.SpecialUse, box.Keywords = uint32(in.SpecialUse), in.Keywords
	f.batch.PutMailbox(&box.Mailbox)
	f.importRights(box, in)
	if err := f.importRows(e, c, box); err != nil {
		return err
	}
	// What happened before is not known here: a session that asks for it compares
	// everything.
	box.n.UIDNext, box.n.ModSeq = max(box.n.UIDNext, in.UIDNext), max(box.n.ModSeq, in.ModSeq)
	box.n.Floor = box.n.ModSeq
	f.touch(box)
	return nil
}

// importRows makes the messages of box from UID First to Last those of c.
func (f *FSM) importRows(e *Entry, c *command.Import, box *mailbox) error {
	if c.First == 0 || c.Last < c.First {
		return nil
	}
	old := map[uint32]store.Row{}
	err := f.each(box, command.UIDSet{{First: c.First, Last: c.Last}}, func(w *store.Row) error {
		old[w.UID] = *w
		return nil
	})
	if err != nil {
		return err
	}
	brought := 0
	for i := range c.Rows {
		in := &c.Rows[i]
		w := store.Row{
			UID: in.UID, Flags: in.Flags, ModSeq: in.ModSeq, Created: in.Created,
			InternalDate: in.InternalDate, SaveDate: in.SaveDate,
		}
		was, here := old[in.UID]
		delete(old, in.UID)
		var msg store.Message
		if in.Message != nil {
			msg = stored(e, in.Message, len(c.Tail), brought)
			brought++
		}
		switch {
		case here:
			if in.Message != nil { // a repetition
				if err := f.keepMessage(e, &msg); err != nil {
					return err
				}
			}
			w.Size, w.MessageID = was.Size, was.MessageID
			box.count(&was, -1)
			box.count(&w, 1)
			f.batch.PutRow(box.ID, &box.n, &w, &was)
		case in.Message != nil:
			msg.Refs = 1
			w.Size, w.MessageID = msg.Size, msg.ID
			box.count(&w, 1)
			f.batch.PutRow(box.ID, &box.n, &w, nil)
			if err := f.keepMessage(e, &msg); err != nil {
				return err
			}
		}
	}
	for _, uid := range sortedUIDs(old) {
		w := old[uid]
		box.count(&w, -1)
		f.batch.DeleteRow(box.ID, &box.n, &w)
		if err := f.batch.AddRefs(w.MessageID, -1); err != nil {
			return err
		}
	}
	f.touch(box)
	return nil
}

func sortedUIDs(rows map[uint32]store.Row) []uint32 {
	uids := make([]uint32, 0, len(rows))
	for uid := range rows {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids
}

func (f *FSM) importSelf(in *command.ImportSelf, a *account) error {
	a.UIDValidity = in.UIDValidity
	a.LimitBytes, a.LimitCount, a.LimitStamp = in.Limit.Bytes, in.Limit.Messages, in.Limit.Stamp
	f.touchAccount(a)
	for _, m := range slices.Clone(a.boxes) {
		if slices.Contains(in.Mailboxes, m.UIDValidity) {
			continue
		}
		if err := f.takeMailbox(m); err != nil {
			return err
		}
		a.drop(m)
	}
	names, err := f.subscriptions(a)
	if err != nil {
		return err
	}
	var gone []string
	for name := range names {
		if !slices.Contains(in.Subscriptions, name) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	for _, name := range gone {
		if err := f.setSubscribed(a, name, false); err != nil {
			return err
		}
	}
	for _, name := range in.Subscriptions {
		if err := f.setSubscribed(a, name, true); err != nil {
			return err
		}
	}
	return nil
}

// importMemory takes over what is remembered of deliveries and of answers.
func (f *FSM) importMemory(e *Entry, c *command.Import, a *account) error {
	f.expiry = f.expiry[:0]
	for i := range c.Keys {
		k := &c.Keys[i]
		if _, ok, err := f.delivered(k.Key); ok || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		d := store.Delivered{Hash: k.Hash, UIDValidity: k.UIDValidity, UID: k.UID, Answer: k.Answer, Account: a.ID}
		if box := a.boxByValidity(k.Mailbox); box != nil {
			d.Mailbox = box.ID
		}
		f.batch.PutDelivered(k.Key, &d)
		f.keys[k.Key] = d
		f.expiry = append(f.expiry, k.Key[:]...)
	}
	if len(f.expiry) > 0 {
		at := f.now + min(max(c.KeyLife, 0), maxKeyLife)
		f.batch.PutExpiry(at, e.Index, f.expiry)
		f.due = min(f.due, at)
	}
	for i := range c.Answered {
		in := &c.Answered[i]
		if in.Until <= 0 || in.Until == math.MaxInt64 {
			continue
		}
		if err := f.batch.PutAnswered(a.ID, in.Hash, store.Answered{Until: in.Until, Open: in.Open, By: in.By}); err != nil {
			return err
		}
		f.due = min(f.due, in.Until)
	}
	return nil
}

package mailbox

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/message"
)

// here returns *ErrMoved when the account called name, which need not exist, is
// at another pair or on its way.
func (s *Service) here(name string) error {
	m, err := s.cfg.Store.Move(name)
	if err != nil {
		return err
	}
	return s.moved(&m)
}

func (s *Service) moved(m *store.Move) error {
	if !m.Closed(s.cfg.Now().UnixNano()) {
		return nil
	}
	if m.State != store.MoveGone {
		return &ErrMoved{}
	}
	return &ErrMoved{Pair: m.Peer, Epoch: m.Since}
}

// MoveStatus is where an account stands between two pairs.
type MoveStatus struct {
	Exists bool // there is an account, or what came of one
	State  store.MoveState
	Closed bool // nothing is taken for it now
	Peer   string
	Token  command.Key
	Since  time.Time
}

// MoveStatus says where the account called name stands, which need not exist.
func (s *Service) MoveStatus(ctx context.Context, name string) (out MoveStatus, err error) {
	if name, err = accountName(name); err != nil {
		return out, err
	}
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return out, err
	}
	m, err := s.cfg.Store.Move(name)
	if err != nil {
		return out, err
	}
	out.State, out.Peer, out.Token, out.Closed = m.State, m.Peer, command.Key(m.Token), m.Closed(s.cfg.Now().UnixNano())
	if m.State != 0 {
		out.Since = time.Unix(0, m.Since)
	}
	_, err = s.cfg.Store.AccountID(name)
	if out.Exists = err == nil; errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return out, err
}

// Move takes a step of a move. *ErrMoved when the account does not stand where
// the step begins, or somebody else moves it; ErrLevel before the pair's format
// has it.
func (s *Service) Move(ctx context.Context, c command.Move) (err error) {
	if !s.level2() {
		return ErrLevel
	}
	if c.Account, err = accountName(c.Account); err != nil {
		return err
	}
	c.Limit = bulk
	for {
		c.Head = s.head()
		done, err := propose[*command.Done](ctx, s, &c)
		if err != nil {
			return err
		}
		if done.Code != command.Again {
			return codeError(done.Code)
		}
	}
}

// Exported is an account as it is at one moment, without its messages.
type Exported struct {
	Self      command.ImportSelf
	Mailboxes []command.ImportMailbox
	Messages  []int64 // of each mailbox
	Bytes     int64
	Answered  []command.ImportAnswered
}

// Export reads an account, whether or not it is closed.
func (s *Service) Export(ctx context.Context, name string) (*Exported, error) {
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return nil, err
	}
	n, id, err := s.exported(name)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	row, err := n.Account(id)
	if err != nil {
		return nil, err
	}
	out := &Exported{Self: command.ImportSelf{
		UIDValidity: row.UIDValidity,
		Limit:       command.Limit{Bytes: row.LimitBytes, Messages: row.LimitCount, Stamp: row.LimitStamp},
	}}
	lists := map[uint64]*store.Rights{}
	if err := n.Rights(id, func(box uint64, r *store.Rights) { lists[box] = r }); err != nil {
		return nil, err
	}
	err = n.Mailboxes(id, func(m *store.Mailbox, c *store.Counters) bool {
		out.Self.Mailboxes = append(out.Self.Mailboxes, m.UIDValidity)
		out.Mailboxes = append(out.Mailboxes, importMailbox(m, c, lists[m.ID]))
		out.Messages = append(out.Messages, int64(c.Messages))
		out.Bytes += c.Size
		return true
	})
	if err != nil {
		return nil, err
	}
	if err := n.Subscriptions(id, func(name string) { out.Self.Subscriptions = append(out.Self.Subscriptions, name) }); err != nil {
		return nil, err
	}
	err = n.Answered(id, func(hash [store.HashSize]byte, a *store.Answered) {
		out.Answered = append(out.Answered, command.ImportAnswered{Hash: hash, Until: a.Until, Open: a.Open, By: a.By})
	})
	return out, err
}

// exported begins to read an account.
func (s *Service) exported(name string) (*store.Snapshot, uint64, error) {
	name, err := accountName(name)
	if err != nil {
		return nil, 0, err
	}
	id, err := s.cfg.Store.AccountID(name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, ErrNoAccount
	}
	if err != nil {
		return nil, 0, err
	}
	n, err := s.cfg.Store.Snapshot()
	return n, id, err
}

// mailboxOf finds a mailbox of an account by its UIDVALIDITY, nil when there is
// none.
func mailboxOf(n *store.Snapshot, id uint64, uidValidity uint32) (box *store.Mailbox, counters *store.Counters, err error) {
	err = n.Mailboxes(id, func(m *store.Mailbox, c *store.Counters) bool {
		if m.UIDValidity == uidValidity {
			box, counters = m, c
		}
		return box == nil
	})
	return box, counters, err
}

func importMailbox(m *store.Mailbox, c *store.Counters, r *store.Rights) command.ImportMailbox {
	in := command.ImportMailbox{
		Name: m.Name, UIDValidity: m.UIDValidity, UIDNext: c.UIDNext, ModSeq: c.ModSeq,
		SpecialUse: command.Use(m.SpecialUse), Keywords: m.Keywords, Listed: r != nil,
	}
	if r != nil {
		for i := range r.Grants {
			in.Grants = append(in.Grants, command.Grant{Identifier: r.Grants[i].Identifier, Rights: command.Right(r.Grants[i].Rights)})
		}
	}
	return in
}

// ExportedRows is a part of a mailbox, as of one moment: IDs name its messages for
// ExportBody.
type ExportedRows struct {
	command.Import
	IDs   []uint64
	Sizes []int64
	More  bool // others follow
}

// ExportRows gives the messages of a mailbox above a UID, at most limit.
func (s *Service) ExportRows(ctx context.Context, name string, uidValidity, after uint32, limit int) (*ExportedRows, error) {
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return nil, err
	}
	n, id, err := s.exported(name)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	box, counters, err := mailboxOf(n, id, uidValidity)
	if err != nil {
		return nil, err
	}
	if box == nil {
		return nil, ErrNoMailbox
	}
	list, err := n.RightsOf(id, box.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	in := importMailbox(box, counters, list)
	out := &ExportedRows{Import: command.Import{Account: name, Mailbox: &in, First: after + 1, Last: counters.UIDNext - 1}}
	scan := n.Rows(box.ID)
	for ok := scan.Seek(after + 1); ok; ok = scan.Next() {
		if len(out.Rows) == limit {
			out.More, out.Last = true, out.Rows[limit-1].UID
			return out, nil
		}
		w := scan.Row()
		if w == nil {
			break
		}
		out.IDs, out.Sizes = append(out.IDs, w.MessageID), append(out.Sizes, w.Size)
		out.Rows = append(out.Rows, command.ImportRow{
			UID: w.UID, Flags: w.Flags, ModSeq: w.ModSeq, Created: w.Created, InternalDate: w.InternalDate, SaveDate: w.SaveDate,
		})
	}
	return out, scan.Err()
}

// ExportBody reads octets of a message that ExportRows named, and from its first
// one on checks its hash. ErrExpunged when it is gone.
func (s *Service) ExportBody(ctx context.Context, id uint64, off, n int64) ([]byte, error) {
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return nil, err
	}
	b, err := s.cfg.Store.Body(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrExpunged
	}
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if off == 0 {
		if err := b.Check(); err != nil {
			return nil, err
		}
	}
	octets, err := b.Bytes(off, n)
	return slices.Clone(octets), err
}

// ExportKeys lists what the pair remembers of deliveries to an account: all, or
// with a clock from an earlier call what was added since. It returns the clock
// to give next.
func (s *Service) ExportKeys(ctx context.Context, name string, since int64) (keys []command.ImportKey, clock int64, err error) {
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return nil, 0, err
	}
	n, id, err := s.exported(name)
	if err != nil {
		return nil, 0, err
	}
	defer n.Close()
	st, err := n.State()
	if err != nil {
		return nil, 0, err
	}
	boxes := map[uint64]uint32{}
	if err := n.Mailboxes(id, func(m *store.Mailbox, _ *store.Counters) bool {
		boxes[m.ID] = m.UIDValidity
		return true
	}); err != nil {
		return nil, 0, err
	}
	add := func(key [store.KeySize]byte, d *store.Delivered) {
		box, ours := boxes[d.Mailbox]
		if ours = d.Account == id || d.Account == 0 && ours; ours {
			keys = append(keys, command.ImportKey{
				Key: key, Hash: d.Hash, Mailbox: box, UIDValidity: d.UIDValidity, UID: d.UID, Answer: d.Answer,
			})
		}
	}
	if since == 0 {
		err = n.Delivered(func(key [store.KeySize]byte, d *store.Delivered) bool {
			add(key, d)
			return ctx.Err() == nil
		})
		return keys, st.Clock, errors.Join(err, ctx.Err())
	}
	// Every key is remembered for KeyLife from the clock of its entry, which does
	// not go back.
	var recent []byte
	if err := n.Expiring(since+int64(s.cfg.KeyLife), func(keys []byte) { recent = append(recent, keys...) }); err != nil {
		return nil, 0, err
	}
	for ; len(recent) >= store.KeySize; recent = recent[store.KeySize:] {
		var d store.Delivered
		err := n.DeliveredTo([store.KeySize]byte(recent), &d)
		if err == nil {
			add([store.KeySize]byte(recent), &d)
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, 0, err
		}
	}
	return keys, st.Clock, nil
}

// ImportPart writes up to command.MaxPart octets of a message that is too large
// for one entry, and says where they are.
func (s *Service) ImportPart(ctx context.Context, octets []byte) (command.Extent, error) {
	if len(octets) == 0 || len(octets) > command.MaxPart {
		return command.Extent{}, ErrTooBig
	}
	release, err := s.take(int64(len(octets)) + entryCost)
	if err != nil {
		return command.Extent{}, err
	}
	defer release()
	at, err := s.parts(ctx, octets)
	if err != nil {
		return command.Extent{}, err
	}
	return at[0], nil
}

// Brought is a message that an import brings: its octets, or where ImportPart has
// put them.
type Brought struct {
	Octets []byte
	Parts  []command.Extent
}

// Import fills an account that arrives. brought are the messages of rows by their
// place; octets of all of them together are at most command.MaxPart.
func (s *Service) Import(ctx context.Context, c *command.Import, brought map[int]Brought) (err error) {
	if !s.level2() {
		return ErrLevel
	}
	if c.Account, err = accountName(c.Account); err != nil {
		return err
	}
	if m := c.Mailbox; m != nil {
		if m.Name, err = mailboxName(m.Name); err != nil {
			return err
		}
	}
	c.Head, c.KeyLife = s.head(), int64(s.cfg.KeyLife)
	total := int64(0)
	for _, b := range brought {
		total += int64(len(b.Octets))
	}
	if total > command.MaxPart || len(brought) > command.MaxMessages {
		return ErrTooBig
	}
	release, err := s.take(total + entryCost)
	if err != nil {
		return err
	}
	defer release()
	c.Tail = make([]byte, 0, total)
	for i := range c.Rows {
		b, ok := brought[i]
		if !ok {
			continue
		}
		var m command.Message
		if len(b.Parts) > 0 {
			if m, err = s.partsOf(b.Parts); err != nil {
				return err
			}
		} else {
			m = newMessage(b.Octets)
			if n := len(b.Octets); n > 0 {
				m.Body = []command.Extent{{Off: uint32(len(c.Tail)), Len: uint32(n)}}
				c.Tail = append(c.Tail, b.Octets...)
			}
		}
		c.Rows[i].Message = &m
	}
	data := command.Append(nil, c)
	if _, err := command.Decode(data); err != nil { // what was given is not what an entry may hold
		return fmt.Errorf("%w: %w", ErrLimit, err)
	}
	done, _, err := proposeEntry[*command.Done](ctx, s, data)
	if err == nil {
		err = codeError(done.Code)
	}
	return err
}

// partsOf is the message whose octets are in the log.
func (s *Service) partsOf(parts []command.Extent) (command.Message, error) {
	at := make([]store.Extent, len(parts))
	var size int64
	for i, x := range parts {
		at[i] = store.Extent{Index: x.Index, Off: x.Off, Len: x.Len}
		size += int64(x.Len)
	}
	if size > s.cfg.MaxMessage+maxTrace {
		return command.Message{}, ErrTooBig
	}
	octets, err := s.cfg.Store.Octets(at)
	if err != nil {
		return command.Message{}, err
	}
	m := command.Message{Size: size, Meta: message.Parse(octets).AppendBinary(make([]byte, 0, 512)), Body: parts}
	sum := sha256.Sum256(octets)
	copy(m.Hash[:], sum[:])
	return m, nil
}

// Sum is a digest of all that a user can see of an account: two accounts with the
// same one, in whatever pair, have the same mailboxes, messages, UIDs, flags,
// dates, mod-sequences, subscriptions, lists of rights and quota.
func (s *Service) Sum(ctx context.Context, name string) (sum [sha256.Size]byte, err error) {
	x, err := s.Export(ctx, name)
	if err != nil {
		return sum, err
	}
	n, id, err := s.exported(name)
	if err != nil {
		return sum, err
	}
	defer n.Close()
	h := sha256.New()
	word := func(v ...uint64) {
		for _, v := range v {
			var b [8]byte
			binary.BigEndian.PutUint64(b[:], v)
			h.Write(b[:])
		}
	}
	text := func(list ...string) {
		word(uint64(len(list)))
		for _, t := range list {
			word(uint64(len(t)))
			h.Write([]byte(t))
		}
	}
	word(uint64(x.Self.UIDValidity), uint64(x.Self.Limit.Bytes), uint64(x.Self.Limit.Messages))
	text(x.Self.Limit.Stamp)
	slices.Sort(x.Self.Subscriptions)
	text(x.Self.Subscriptions...)
	slices.SortFunc(x.Mailboxes, func(a, b command.ImportMailbox) int { return int(int64(a.UIDValidity) - int64(b.UIDValidity)) })
	for i := range x.Mailboxes {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		m := &x.Mailboxes[i]
		text(m.Name)
		text(m.Keywords...)
		word(uint64(m.UIDValidity), uint64(m.UIDNext), m.ModSeq, uint64(m.SpecialUse))
		if m.Listed {
			for _, g := range m.Grants {
				text(g.Identifier, g.Rights.Letters())
			}
			text("listed")
		}
		if err := s.sumRows(n, id, m.UIDValidity, word); err != nil {
			return sum, err
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (s *Service) sumRows(n *store.Snapshot, id uint64, uidValidity uint32, word func(...uint64)) error {
	box, _, err := mailboxOf(n, id, uidValidity)
	if err != nil {
		return err
	}
	if box == nil {
		return ErrNoMailbox
	}
	scan := n.Rows(box.ID)
	for ok := scan.Seek(1); ok; ok = scan.Next() {
		w := scan.Row()
		if w == nil {
			break
		}
		hash, err := s.cfg.Store.HashOf(w.MessageID)
		if err != nil {
			return err
		}
		word(uint64(w.UID), w.Flags, w.ModSeq, w.Created, uint64(w.InternalDate), uint64(w.SaveDate), uint64(w.Size),
			binary.BigEndian.Uint64(hash[:8]), binary.BigEndian.Uint64(hash[8:]))
	}
	return scan.Err()
}

package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/shared/admin"
)

const (
	// moveCall is how long one question of a move may take.
	moveCall = time.Minute
	// movePatience is how long a pair that nobody serves is asked again: a
	// failover takes less. It is less than a fence holds.
	movePatience = 30 * time.Second
	// copyPasses is how often an account is copied at most while its user works;
	// again when the pass before took longer than copySoon.
	copyPasses = 4
	copySoon   = time.Second
)

// Mover takes accounts from one pair to another while the cluster runs.
type Mover struct {
	f  *Fleet
	at map[string]*Node // who serves a pair, as far as it is known

	Step func(what string) // told what is being done; nil: nobody
	// SetPair gives the user the other pair in the directory. The account is
	// there already, and closed here for good.
	SetPair func(ctx context.Context) error
}

// Moved is what a move came to.
type Moved struct {
	Account  string        `json:"account"`
	From     string        `json:"from"`
	To       string        `json:"to"`
	Messages int64         `json:"messages"`
	Bytes    int64         `json:"bytes"`
	Closed   time.Duration `json:"closed"` // how long the account took nothing
	Took     time.Duration `json:"took"`
	Resumed  bool          `json:"resumed,omitempty"` // an earlier run had got beyond the copy
}

// Mover returns one for accounts of the cluster.
func (f *Fleet) Mover() *Mover { return &Mover{f: f, at: map[string]*Node{}} }

// move is one account on its way.
type move struct {
	*Mover
	account, from, to, token string

	had    map[uint32]map[uint32]bool // UIDs given, by UIDVALIDITY of the mailbox
	modseq map[uint32]uint64          // of mailboxes as they were given
	clock  int64                      // up to which delivery keys were given
	out    Moved
}

// Left returns the pairs other than pair that have what is left of an account
// which has gone from them to pair. It is an error when the account has gone from
// pair, whatever the directory says: a move was interrupted.
func (m *Mover) Left(ctx context.Context, account, pair string) (left []string, err error) {
	s, err := m.f.Stores(ctx)
	if err != nil {
		return nil, err
	}
	v := &move{Mover: m}
	here, err := ask(ctx, v, pair, admin.MoveState, admin.MailboxName{Pair: pair, Account: account})
	if err != nil {
		return nil, err
	}
	if here.State == admin.MoveGone && here.Closed {
		return nil, fmt.Errorf("%s: %s has gone to %s already: end that move first, by --to %s", pair, account, here.Peer, here.Peer)
	}
	for _, name := range s.Names() {
		if name == pair {
			continue
		}
		st, err := ask(ctx, v, name, admin.MoveState, admin.MailboxName{Pair: name, Account: account})
		if err != nil {
			return nil, err
		}
		if st.State == admin.MoveGone && st.Peer == pair && st.Exists {
			left = append(left, name)
		}
	}
	return left, nil
}

// Move takes an account from a pair to another, or goes on with a move that was
// interrupted. When it fails before the account is closed here for good, it is
// here and open; afterwards repeating it ends it.
//
//	here                        there
//	announce                    drop what an earlier run left, arrive
//	copy, while the user works
//	fence                       copy what changed
//	compare
//	gone: mail is sent on       open
//	the directory, the relays
//	drop
func (m *Mover) Move(ctx context.Context, account, from, to string) (*Moved, error) {
	began := time.Now()
	var token [16]byte
	_, _ = rand.Read(token[:])
	v := &move{
		Mover: m, account: account, from: from, to: to, token: hex.EncodeToString(token[:]),
		had: map[uint32]map[uint32]bool{}, modseq: map[uint32]uint64{},
		out: Moved{Account: account, From: from, To: to},
	}
	here, err := ask(ctx, v, from, admin.MoveState, admin.MailboxName{Pair: from, Account: account})
	if err != nil {
		return nil, err
	}
	switch {
	case here.State == admin.MoveGone && here.Closed && here.Peer != to:
		return nil, fmt.Errorf("%s: %s is at %s already, not at %s", from, account, here.Peer, from)
	case here.State == admin.MoveGone && here.Closed:
		v.token, v.out.Resumed = here.Token, true
	case here.State == admin.MoveArrives:
		return nil, fmt.Errorf("%s: %s is on its way there from %s: end that first", from, account, here.Peer)
	case here.Exists:
		if err := v.bring(ctx); err != nil {
			return nil, err
		}
	default: // a user who has had no mail yet
		v.out.Resumed = true
		there, err := ask(ctx, v, to, admin.MoveState, admin.MailboxName{Pair: to, Account: account})
		if err != nil {
			return nil, err
		}
		v.out.Took = time.Since(began)
		if there.State != "" {
			return nil, fmt.Errorf("%s: %s is %s there, and not at %s", to, account, there.State, from)
		}
		return &v.out, v.directory(ctx)
	}
	if err := v.finish(ctx); err != nil {
		return nil, fmt.Errorf("%s is at %s, but not all is done; repeat the command: %w", account, to, err)
	}
	v.out.Took = time.Since(began)
	return &v.out, nil
}

func (v *move) say(format string, args ...any) {
	if v.Step != nil {
		v.Step(fmt.Sprintf(format, args...))
	}
}

// bring copies the account and closes it here for good.
func (v *move) bring(ctx context.Context) (err error) {
	v.say("announce")
	if err := v.step(ctx, v.from, command.MoveAnnounce, v.to); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			v.giveUp(ctx, err)
		}
	}()
	there, err := ask(ctx, v, v.to, admin.MoveState, admin.MailboxName{Pair: v.to, Account: v.account})
	if err != nil {
		return err
	}
	if there.State == admin.MoveArrives || there.State == admin.MoveGone && there.Exists {
		v.say("drop what an earlier move left at %s", v.to)
		if err := v.step(ctx, v.to, command.MoveDrop, ""); err != nil {
			return err
		}
	}
	if err := v.step(ctx, v.to, command.MoveArrive, v.from); err != nil {
		return err
	}
	v.say("copy")
	if err := v.keys(ctx); err != nil {
		return err
	}
	for range copyPasses {
		began := time.Now()
		if err := v.copy(ctx, false); err != nil {
			return err
		}
		if time.Since(began) < copySoon {
			break
		}
	}
	v.say("fence")
	began := time.Now()
	if err := v.step(ctx, v.from, command.MoveFence, ""); err != nil {
		return err
	}
	v.say("copy what changed")
	if err := v.copy(ctx, true); err != nil {
		return err
	}
	if err := v.keys(ctx); err != nil {
		return err
	}
	v.say("compare")
	if err := v.compare(ctx); err != nil {
		return err
	}
	v.say("gone")
	if err := v.step(ctx, v.from, command.MoveGone, ""); err != nil {
		return err
	}
	if err := v.step(ctx, v.to, command.MoveOpen, ""); err != nil {
		v.say("not open yet: %v", err)
	}
	v.out.Closed = time.Since(began)
	return nil
}

// giveUp leaves the account open where it is. Nobody is there to be told when
// that fails: a fence falls by itself, and the next run drops what is there.
func (v *move) giveUp(ctx context.Context, why error) {
	v.say("give up: %v", why)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), movePatience)
	defer cancel()
	here, err := ask(ctx, v, v.from, admin.MoveState, admin.MailboxName{Pair: v.from, Account: v.account})
	if err != nil || here.Token != v.token || here.State == admin.MoveGone {
		return // it may have gone, or another run has it
	}
	if err := v.step(ctx, v.from, command.MoveStay, ""); err != nil {
		return
	}
	there, err := ask(ctx, v, v.to, admin.MoveState, admin.MailboxName{Pair: v.to, Account: v.account})
	if err == nil && there.Token == v.token && there.State == admin.MoveArrives {
		_ = v.step(ctx, v.to, command.MoveDrop, "")
	}
}

// finish does what is left once the account is closed here for good. Each step
// may have been done already.
func (v *move) finish(ctx context.Context) error {
	v.say("open")
	if err := v.step(ctx, v.to, command.MoveOpen, ""); err != nil {
		return err
	}
	if err := v.directory(ctx); err != nil {
		return err
	}
	v.say("drop")
	return v.step(ctx, v.from, command.MoveDrop, "")
}

func (v *move) directory(ctx context.Context) error {
	v.say("directory")
	if v.SetPair == nil {
		return nil
	}
	return v.SetPair(ctx)
}

// ask asks the replica that serves a pair, again while none does.
func ask[In, Out any](ctx context.Context, v *move, pair string, m admin.Method[In, Out], in In) (out Out, err error) {
	until := time.Now().Add(movePatience)
	for {
		var n *Node
		if n, err = v.serving(ctx, pair); err == nil {
			if out, err = limited(ctx, moveCall, n, m, in); err == nil || final(err) {
				return out, err
			}
		}
		delete(v.at, pair)
		if time.Now().After(until) || ctx.Err() != nil {
			return out, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return out, err
		}
	}
}

// final reports whether asking again would not help: every step may be repeated.
func final(err error) bool {
	if errors.Is(err, admin.ErrConflict) {
		text := err.Error()
		return !strings.Contains(text, "not serving") && !strings.Contains(text, "does not run")
	}
	return errors.Is(err, admin.ErrNotFound) || errors.Is(err, admin.ErrBadRequest)
}

// serving returns the replica that serves a pair.
func (m *Mover) serving(ctx context.Context, pair string) (*Node, error) {
	if n := m.at[pair]; n != nil {
		return n, nil
	}
	nodes, err := m.f.best(ctx, pair)
	if err != nil {
		return nil, err
	}
	m.at[pair] = nodes[0]
	return nodes[0], nil
}

func (v *move) step(ctx context.Context, pair string, step command.MoveStep, peer string) error {
	_, err := ask(ctx, v, pair, admin.MoveStep, admin.MoveStepRequest{Pair: pair, Account: v.account, Step: byte(step), Peer: peer, Token: v.token})
	return err
}

func (v *move) give(ctx context.Context, entry []byte, brought ...admin.MoveMessage) error {
	_, err := ask(ctx, v, v.to, admin.MoveImport, admin.MoveImportRequest{Pair: v.to, Token: v.token, Entry: entry, Brought: brought})
	return err
}

// keys gives what is remembered of deliveries, or what was added since.
func (v *move) keys(ctx context.Context) error {
	k, err := ask(ctx, v, v.from, admin.MoveKeys, admin.MoveKeysRequest{Pair: v.from, Account: v.account, Since: v.clock})
	if err != nil {
		return err
	}
	for _, entry := range k.Entries {
		if err := v.give(ctx, entry); err != nil {
			return err
		}
	}
	v.clock = k.Clock
	return nil
}

// copy gives the account as it is now: all at first, and then what changed. whole
// says that it does not change any more, so that what was taken away goes too.
func (v *move) copy(ctx context.Context, whole bool) error {
	x, err := ask(ctx, v, v.from, admin.MoveAccount, admin.MailboxName{Pair: v.from, Account: v.account})
	if err != nil {
		return err
	}
	v.out.Bytes, v.out.Messages = x.Bytes, 0
	for i, entry := range x.Mailboxes {
		c, err := imported(entry)
		if err != nil {
			return err
		}
		v.out.Messages += x.Messages[i]
		id, modseq := c.Mailbox.UIDValidity, c.Mailbox.ModSeq
		if was, ok := v.modseq[id]; !ok || was != modseq {
			v.say("copy %d messages of %q", x.Messages[i], c.Mailbox.Name)
			if err := v.rows(ctx, id); err != nil {
				return err
			}
		}
		if err := v.give(ctx, entry); err != nil { // its name may be another one
			return err
		}
		v.modseq[id] = modseq
	}
	if !whole {
		return nil
	}
	for _, entry := range append(x.Memory, x.Self) {
		if err := v.give(ctx, entry); err != nil {
			return err
		}
	}
	return nil
}

func imported(entry []byte) (*command.Import, error) {
	given, err := command.Decode(entry)
	if err != nil {
		return nil, err
	}
	c, ok := given.(*command.Import)
	if !ok || c.Mailbox == nil {
		return nil, errors.New("the pair gave something else than a mailbox")
	}
	return c, nil
}

// rows gives the messages of a mailbox.
func (v *move) rows(ctx context.Context, uidValidity uint32) error {
	if v.had[uidValidity] == nil {
		v.had[uidValidity] = map[uint32]bool{}
	}
	for after := uint32(0); ; {
		r, err := ask(ctx, v, v.from, admin.MoveRows, admin.MoveRowsRequest{Pair: v.from, Account: v.account, UIDValidity: uidValidity, After: after})
		if errors.Is(err, admin.ErrNotFound) {
			return nil // the user has deleted it meanwhile
		}
		if err != nil {
			return err
		}
		c, err := imported(r.Entry)
		if err != nil {
			return err
		}
		if len(r.IDs) != len(c.Rows) || len(r.Sizes) != len(c.Rows) {
			return errors.New("the pair gave something else than messages")
		}
		if err := v.chunk(ctx, c, r, v.had[uidValidity]); err != nil {
			return err
		}
		if after = c.Last; !r.More {
			return nil
		}
	}
}

// chunk gives rows with the messages that were not given yet, as many at a time
// as an entry holds.
func (v *move) chunk(ctx context.Context, c *command.Import, r admin.MovedRows, had map[uint32]bool) error {
	all, first, last := c.Rows, c.First, c.Last
	for at := 0; ; {
		var size int64
		var want []int // rows whose messages go with this entry
		end := at
		for ; end < len(all); end++ {
			if had[all[end].UID] {
				continue
			}
			if len(want) > 0 && size+r.Sizes[end] > command.MaxPart { // one that is larger goes alone
				break
			}
			size += r.Sizes[end]
			want = append(want, end)
		}
		c.Rows, c.First, c.Last = all[at:end], first, last
		if end < len(all) {
			c.Last = all[end-1].UID
		}
		brought, gone, err := v.bodies(ctx, r, want)
		if err != nil {
			return err
		}
		for i := range brought {
			brought[i].Row -= at
		}
		for i := len(gone) - 1; i >= 0; i-- {
			c.Rows, brought = leaveOut(c.Rows, brought, gone[i]-at)
		}
		if err := v.give(ctx, command.Append(nil, c), brought...); err != nil {
			return err
		}
		for i := range c.Rows {
			had[c.Rows[i].UID] = true
		}
		if end == len(all) {
			return nil
		}
		at, first = end, c.Last+1
	}
}

// leaveOut leaves out a row, whose message is gone by now.
func leaveOut(rows []command.ImportRow, brought []admin.MoveMessage, at int) ([]command.ImportRow, []admin.MoveMessage) {
	rows = append(append([]command.ImportRow(nil), rows[:at]...), rows[at+1:]...)
	for i := range brought {
		if brought[i].Row > at {
			brought[i].Row--
		}
	}
	return rows, brought
}

// bodies fetches the messages of rows, by their place in r. One that does not fit
// an entry is put where it goes in parts.
func (v *move) bodies(ctx context.Context, r admin.MovedRows, want []int) (brought []admin.MoveMessage, gone []int, err error) {
	if len(want) == 0 {
		return nil, nil, nil
	}
	if len(want) == 1 && r.Sizes[want[0]] > command.MaxPart {
		m, err := v.large(ctx, r.IDs[want[0]], r.Sizes[want[0]])
		if err != nil || m == nil {
			return nil, want, err
		}
		m.Row = want[0]
		return []admin.MoveMessage{*m}, nil, nil
	}
	ids := make([]uint64, len(want))
	for k, i := range want {
		ids[k] = r.IDs[i]
	}
	b, err := ask(ctx, v, v.from, admin.MoveBodies, admin.MoveBodiesRequest{Pair: v.from, IDs: ids, Limit: command.MaxPart})
	if err != nil {
		return nil, nil, err
	}
	if len(b.Octets) != len(ids) {
		return nil, nil, errors.New("the pair gave something else than messages")
	}
	for _, k := range b.Gone {
		if k < 0 || k >= len(want) {
			return nil, nil, errors.New("the pair gave something else than messages")
		}
		gone = append(gone, want[k])
	}
	next := 0
	for k, i := range want {
		if next < len(b.Gone) && b.Gone[next] == k {
			next++
			continue
		}
		brought = append(brought, admin.MoveMessage{Row: i, Octets: b.Octets[k]})
	}
	return brought, gone, nil
}

// large puts a message where it goes in parts; nil when it is gone by now.
func (v *move) large(ctx context.Context, id uint64, size int64) (*admin.MoveMessage, error) {
	m := new(admin.MoveMessage)
	for off := int64(0); off < size; off += command.MaxPart {
		b, err := ask(ctx, v, v.from, admin.MoveBodies, admin.MoveBodiesRequest{Pair: v.from, IDs: []uint64{id}, Off: off, Limit: command.MaxPart})
		if err != nil {
			return nil, err
		}
		if len(b.Gone) > 0 || len(b.Octets) != 1 {
			return nil, nil
		}
		at, err := ask(ctx, v, v.to, admin.MovePart, admin.MovePartRequest{Pair: v.to, Octets: b.Octets[0]})
		if err != nil {
			return nil, err
		}
		m.Parts = append(m.Parts, at)
	}
	return m, nil
}

// compare makes sure that both pairs have the same.
func (v *move) compare(ctx context.Context) error {
	var sums [2]string
	for i, pair := range []string{v.from, v.to} {
		s, err := ask(ctx, v, pair, admin.MoveSum, admin.MailboxName{Pair: pair, Account: v.account})
		if err != nil {
			return err
		}
		sums[i] = s.Sum
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("the copy of %s at %s is not what %s has: digest %s, want %s", v.account, v.to, v.from, sums[1], sums[0])
	}
	return nil
}

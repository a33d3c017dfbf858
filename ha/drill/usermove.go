package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/shared/admin"
)

// Mover is a target that can take users to another pair.
type Mover interface {
	// MoveUsers takes users by their addresses to a pair, one after the other, as an
	// operator does, and returns what became of each. The relay untold does not
	// learn of it; "" is none.
	MoveUsers(ctx context.Context, addresses []string, to, untold string) ([]UserMove, error)
}

// UserMove is what became of a user who was to go to another pair, as
// `postern directory user move --output json` has it.
type UserMove struct {
	Address  string        `json:"address"`
	Account  string        `json:"account"`
	From     string        `json:"from"`
	To       string        `json:"to"`
	Messages int           `json:"messages"`
	Closed   time.Duration `json:"closed"`
	State    string        `json:"state"`
	Error    string        `json:"error"`
}

// States of a UserMove whose user is at the other pair.
const (
	stateMoved = "moved"
	stateThere = "there" // before
)

// ParseUserMoves reads the output of `postern directory user move --output json`.
func ParseUserMoves(out []byte) (list []UserMove, err error) {
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("what became of the users: %w", err)
	}
	return list, nil
}

const (
	// moveWithin bounds the moves of all users of a drill.
	moveWithin = 15 * time.Minute
	// closedAtMost is how long a user's mailboxes may take nothing.
	closedAtMost = time.Second
	// moveFormat is that from which on a pair lets users go, formatWithin the time
	// in which a new pair takes it up.
	moveFormat   = 2
	formatWithin = time.Minute
)

// userMove takes all users to the other pair while a relay hears nothing of it:
// neither of the directory, nor, where the target can, of who serves.
func userMove(ctx context.Context, f *field) error {
	relay := byRole(f.t, "", RoleRelay)[0]
	for _, pair := range []string{f.pair, f.other} {
		if err := f.awaitFormat(ctx, pair); err != nil {
			return err
		}
	}
	freeze := Action{Kind: GossipOff, Node: relay}
	frozen := f.t.Can(GossipOff) == nil
	if frozen {
		if err := f.act(ctx, freeze); err != nil {
			return err
		}
		if err := f.wait(ctx, f.hold/2); err != nil {
			return err
		}
	} else {
		f.event("gossip of %s goes on: %v", relay, f.t.Can(GossipOff))
	}
	half := (len(f.users) + 1) / 2
	broken := f.moveUsers(ctx, f.users[:half], relay)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if f.t.Can(Transfer) == nil && broken == nil { // now the relay is wrong about the pair, too
		broken = f.handOverOf(ctx, f.other)
	}
	if half < len(f.users) && broken == nil {
		broken = f.moveUsers(ctx, f.users[half:], relay)
	}
	from := time.Now()
	if err := f.wait(ctx, max(f.hold/2, settle)); err != nil {
		return err
	}
	n := 0
	for _, e := range f.led.Entries() {
		if e.Via == relay && e.Outcome == ledger.Acknowledged && e.Sent.After(from) {
			n++
		}
	}
	broken = errors.Join(broken, f.expect(n > 0, "a relay that was told nothing delivers", "%s had %d messages acknowledged after the moves", relay, n), f.allMoved(), f.noBounce())
	if frozen {
		broken = errors.Join(broken, f.back(ctx, freeze))
	}
	return errors.Join(broken, f.awaitWell(ctx, wellWithin))
}

// awaitFormat waits until a pair can let users go.
func (f *field) awaitFormat(ctx context.Context, pair string) error {
	var format uint32
	if !f.until(ctx, formatWithin, func() bool {
		g := ask(ctx, f.t, pair)
		format = g.status[g.serving()].Format
		return format >= moveFormat
	}) {
		return errors.Join(context.Cause(ctx), fmt.Errorf("%s is on format %d, users move from %d on: postern upgrade finalize", pair, format, moveFormat))
	}
	return nil
}

// moveUsers takes users to the other pair and notes what became of them.
func (f *field) moveUsers(ctx context.Context, users []User, untold string) error {
	from := time.Now()
	f.event("%d users go to %s", len(users), f.other)
	f.mu.Lock()
	f.leaving = append(f.leaving, users...)
	f.mu.Unlock()
	list, err := f.moveTo(ctx, users, f.other, untold)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.res.Faults = append(f.res.Faults, Window{fmt.Sprintf("%d users go to %s", len(users), f.other), from, time.Now()})
	f.moves = append(f.moves, list...)
	return err
}

func (f *field) moveTo(ctx context.Context, users []User, to, untold string) ([]UserMove, error) {
	m, ok := f.t.(Mover)
	if !ok {
		return nil, errors.New("the target moves no users")
	}
	ctx, cancel := context.WithTimeout(ctx, moveWithin)
	defer cancel()
	var addresses []string
	for _, u := range users {
		addresses = append(addresses, u.Address)
	}
	return m.MoveUsers(ctx, addresses, to, untold)
}

// allMoved looks at what became of the users.
func (f *field) allMoved() error {
	f.mu.Lock()
	sum := Moves{To: f.other}
	why := ""
	for _, m := range f.moves {
		if m.State != stateMoved || m.To != f.other {
			why = fmt.Sprintf("; %s: %s %s", m.Address, m.State, m.Error)
			continue
		}
		sum.Users++
		sum.Messages += m.Messages
		sum.ClosedMillis = max(sum.ClosedMillis, m.Closed.Milliseconds())
	}
	f.res.Moves = &sum
	all := len(f.users)
	f.mu.Unlock()
	longest, most := time.Duration(sum.ClosedMillis)*time.Millisecond, time.Duration(float64(closedAtMost)*f.o.Slack)
	return errors.Join(
		f.expect(sum.Users == all, "every user goes to "+f.other, "%d of %d users, with %d messages%s", sum.Users, all, sum.Messages, why),
		f.expect(longest <= most, "nobody is closed for long", "longest %v, limit %v", longest, most))
}

// places asserts that the account of every user who has moved is at the other pair
// with all that was found in the mailbox, and not where it was.
func (r *run) places(ctx context.Context, found map[ledger.Key]int) error {
	if len(r.moves) == 0 {
		return nil
	}
	copies := map[string]int{}
	for k, n := range found {
		copies[k.Recipient] += n
	}
	var wrong []string
	messages := 0
	for _, m := range r.moves {
		n, why, err := r.place(ctx, m.Account, r.other, r.pair)
		if err != nil {
			return fmt.Errorf("where %s is: %w", m.Address, err)
		}
		if why == "" && n < copies[m.Address] {
			why = fmt.Sprintf("%s has %d messages, %d of the load were read", r.other, n, copies[m.Address])
		}
		if messages += n; why != "" {
			wrong = append(wrong, m.Address+": "+why)
		}
	}
	first := ""
	if len(wrong) > 0 {
		first = "; first " + wrong[0]
	}
	return r.expect(len(wrong) == 0, "every user is in one place, with all messages", "%d of %d users at %s, %d messages in their inboxes%s",
		len(r.moves)-len(wrong), len(r.moves), r.other, messages, first)
}

// place looks for an account that should be at one pair and has left another;
// messages are those of its inbox.
func (r *run) place(ctx context.Context, account, at, left string) (messages int, why string, err error) {
	here, err := askServing(ctx, r.field, at, admin.MoveState, admin.MailboxName{Pair: at, Account: account})
	if err != nil {
		return 0, "", err
	}
	there, err := askServing(ctx, r.field, left, admin.MoveState, admin.MailboxName{Pair: left, Account: account})
	if err != nil {
		return 0, "", err
	}
	switch {
	case !here.Exists || here.State != "" || here.Closed:
		return 0, fmt.Sprintf("%s says exists %v, state %q", at, here.Exists, here.State), nil
	case there.Exists || there.State != admin.MoveGone || there.Peer != at:
		return 0, fmt.Sprintf("%s says exists %v, state %q", left, there.Exists, there.State), nil
	}
	d, err := askServing(ctx, r.field, at, admin.MailboxShow, admin.MailboxQuery{Pair: at, Account: account})
	for _, m := range d.Mailboxes {
		if strings.EqualFold(m.Name, "INBOX") {
			messages += m.Messages
		}
	}
	return messages, "", err
}

// askServing asks the node that serves a pair.
func askServing[In, Out any](ctx context.Context, f *field, pair string, m admin.Method[In, Out], in In) (out Out, err error) {
	f.until(ctx, wellWithin, func() bool {
		var n *Node
		if n, err = f.node(ask(ctx, f.t, pair).serving()); err != nil {
			return false
		}
		c, cancel := context.WithTimeout(ctx, readWithin)
		defer cancel()
		out, err = admin.Call(c, n.Admin, m, in)
		return err == nil
	})
	return out, errors.Join(err, context.Cause(ctx))
}

// takeHome takes the users back to the pair that they came from, also when the
// drill was interrupted in the middle of a move.
func (r *run) takeHome(ctx context.Context) error {
	if len(r.leaving) == 0 {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	r.event("%d users go back to %s", len(r.leaving), r.pair)
	if len(r.moves) < len(r.leaving) {
		if _, err := r.moveTo(ctx, r.leaving, r.other, ""); err != nil {
			return err
		}
	}
	list, err := r.moveTo(ctx, r.leaving, r.pair, "")
	if err != nil {
		return fmt.Errorf("users are not taken back: %w", err)
	}
	home, why := 0, ""
	for _, m := range list {
		if m.State == stateMoved || m.State == stateThere {
			home++
		} else {
			why = fmt.Sprintf("; %s: %s", m.Address, m.Error)
		}
	}
	return r.expect(home == len(r.leaving), "users are taken back to "+r.pair, "%d of %d%s", home, len(r.leaving), why)
}

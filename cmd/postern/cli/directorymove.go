package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
)

// mostMoved bounds the addresses of a list.
const mostMoved = 100_000

func (a *app) directoryMoveCmd(d *directoryFlags) *cobra.Command {
	var to, list string
	c := &cobra.Command{
		Use:   "move [ADDRESS]... --to PAIR",
		Short: "Move users with their mailboxes to another pair",
		Long: `move takes the mailboxes of users to another pair, while the cluster runs, and
then gives their entries the new mailHost.

A user works on while the mailboxes are copied. For what changed meanwhile they are
closed for a moment: mail for the user waits at the relays, sessions end, and
logins wait until the mailboxes are open at the other pair. UIDs, UIDVALIDITYs,
flags, dates and mod-sequences, subscriptions, quota, and what is remembered of
deliveries and of automatic answers stay as they are; both copies are compared
before the old one is given up. For 30 days the old pair names the new one to
relays that do not know yet. What clients may keep of MAILBOXID and EMAILID does
not hold any more, and messages that were copied between mailboxes take room of
their own.

It may be interrupted and repeated at any time. Until the mailboxes are closed at
the old pair for good the user stays there, and what closes them for a moment ends
by itself after two minutes; from then on repeating the command ends the move.

Both pairs have to be on format 2 (postern upgrade finalize).`,
		Example: `  postern directory user move --dir ~/mail u0001@postern.test --to pair2
  postern directory user move --list users.txt --to pair2 --config /etc/postern/relay.yaml --bind-dn cn=admin,o=isp --bind-password-file pw \
    --audit /var/log/postern/directory.log --node relay1:8405 --cert admin.pem --key admin-key.pem --cluster-ca ca.pem`,
	}
	d.writeFlags(c)
	a.clusterFlags(c)
	f := c.Flags()
	f.StringVar(&to, "to", "", "name of the pair that they go to")
	f.StringVar(&list, "list", "", `file with addresses, one a line; "-" is standard input`)
	_ = c.MarkFlagRequired("to")
	_ = c.MarkFlagFilename("list")
	c.RunE = func(c *cobra.Command, args []string) error {
		addresses, err := a.addresses(args, list)
		if err != nil {
			return err
		}
		d.faulty = true // an entry that has a fault may move with it
		fl, err := a.openFor(c.Context(), d)
		if err != nil {
			return err
		}
		defer fl.Close()
		return a.withEditor(d, true, func(ctx context.Context, ed *edit.Editor, _ []string) error {
			stores, err := fl.Stores(ctx)
			if err != nil {
				return couldNotRun{err}
			}
			if !slices.Contains(stores.Names(), to) {
				return usagef("--to %s: the pairs are %s", to, strings.Join(stores.Names(), ", "))
			}
			m := &userMove{a: a, fl: fl, ed: ed, to: to, pair: expand.Pairs(stores.Names()...)}
			return m.all(ctx, addresses)
		})(c, args)
	}
	return c
}

// addresses are those of the command line, or of a file.
func (a *app) addresses(args []string, list string) ([]string, error) {
	if (list == "") == (len(args) == 0) {
		return nil, usagef("name addresses, or a file of them by --list")
	}
	if list == "" {
		return args, nil
	}
	in := a.in
	if list != "-" {
		f, err := os.Open(list)
		if err != nil {
			return nil, couldNotRun{err}
		}
		defer f.Close()
		in = f
	}
	var out []string
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if out = append(out, text); len(out) > mostMoved {
			return nil, usagef("--list %s: more than %d addresses", list, mostMoved)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, couldNotRun{err}
	}
	return out, nil
}

// userMove moves users to a pair.
type userMove struct {
	a    *app
	fl   *fleet.Fleet
	ed   *edit.Editor
	to   string
	pair func(mailHost string) (string, bool)
}

// userMoved is what became of one user.
type userMoved struct {
	Address string `json:"address"`
	fleet.Moved
	State string `json:"state"` // moved, there, would move, failed
	Error string `json:"error,omitempty"`
}

func (m *userMove) all(ctx context.Context, addresses []string) error {
	var out []userMoved
	failed := 0
	b := m.a.progress("users", len(addresses))
	for _, address := range addresses {
		if ctx.Err() != nil {
			break
		}
		u := userMoved{Address: address}
		if err := m.one(ctx, address, &u); err != nil {
			u.State, u.Error = "failed", err.Error()
			failed++
			m.a.warn("%s: %v", address, err)
		}
		out = append(out, u)
		b.step()
	}
	b.end()
	err := m.a.emit(out, func(w io.Writer) error { return printMoved(w, out) })
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted after %d of %d users", len(out), len(addresses))
	case failed > 0:
		return fmt.Errorf("%d of %d users are not moved", failed, len(addresses))
	}
	return nil
}

func (m *userMove) one(ctx context.Context, address string, out *userMoved) error {
	e, err := m.ed.Directory().Login(ctx, address)
	if err != nil {
		return err
	}
	if e.Kind != directory.User || e.Mailbox == "" {
		return errors.New("no user with a mailbox")
	}
	from, ok := m.pair(e.MailHost)
	if !ok {
		return fmt.Errorf("mailHost %q names no pair that is known", e.MailHost)
	}
	mover := m.fl.Mover()
	mover.Step = func(what string) {
		if isTerminal(m.a.err) {
			fmt.Fprintf(m.a.err, "%s: %s\n", table.Clean(address), table.Clean(what))
		}
	}
	mover.SetPair = func(ctx context.Context) error { return m.setPair(ctx, address, e, from) }
	out.Account, out.From, out.To = e.Mailbox, from, m.to
	pairs := []string{from}
	if from == m.to { // an earlier run may have left something
		if pairs, err = mover.Left(ctx, e.Mailbox, m.to); err != nil {
			return err
		}
		mover.SetPair = nil
	}
	out.State = "there"
	if m.ed.DryRun() {
		if len(pairs) > 0 {
			out.State = "would move"
		}
		return nil
	}
	for _, pair := range pairs {
		moved, err := mover.Move(ctx, e.Mailbox, pair, m.to)
		if err != nil {
			return err
		}
		out.Moved, out.State = *moved, "moved"
	}
	return nil
}

// setPair writes the new mailHost, in the form of the old one, and has the relays
// forget the old.
func (m *userMove) setPair(ctx context.Context, address string, e *directory.Entry, from string) error {
	host := m.to
	if label, rest, ok := strings.Cut(e.MailHost, "."); ok && label == from {
		host += "." + rest
	}
	if _, ok := m.pair(host); !ok {
		host = m.to
	}
	if _, err := m.ed.Do(ctx, edit.Request{Op: edit.Set, Kind: edit.User, Name: e.DN, Values: edit.Values{"mail-host": {host}}}); err != nil {
		return err
	}
	if _, err := m.fl.Flush(ctx, "", admin.FlushRequest{Addresses: []string{address}}); err != nil {
		m.a.warn("relays that were not told ask %s first until their answers are old: %v", from, err)
	}
	return nil
}

func printMoved(w io.Writer, list []userMoved) error {
	t := table.New("user", "from", "to", ">messages", ">size", ">closed", ">took", "state")
	for _, u := range list {
		t.Row(u.Address, dash(u.From), dash(u.To), u.Messages, table.Size(u.Bytes),
			u.Closed.Round(time.Millisecond), u.Took.Round(time.Millisecond), u.State)
	}
	return t.Print(w)
}

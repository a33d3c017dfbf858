package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

func (a *app) mailboxCmd() *cobra.Command {
	return a.onCluster(group("mailbox", "Look at accounts and their mailboxes",
		"mailbox shows the accounts that pairs hold and their mailboxes, without their contents.",
		a.mailboxListCmd(), a.mailboxShowCmd()))
}

func (a *app) mailboxListCmd() *cobra.Command {
	var pair string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "List accounts",
		Example: `  postern mailbox list --dir ~/mail --pair pair1`,
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			if limit < 1 {
				return usagef("--limit %d: want at least 1", limit)
			}
			accounts, more, silent, err := f.Accounts(ctx, pair, limit)
			if err != nil {
				return err
			}
			a.silent(silent)
			if more {
				a.warn("there are more accounts than shown: see --limit")
			}
			return a.emit(accounts, func(w io.Writer) error {
				t := table.New("account", "pair")
				for _, acc := range accounts {
					t.Row(acc.Account, acc.Pair)
				}
				return t.Print(w)
			})
		}),
	}
	c.Flags().StringVar(&pair, "pair", "", "name of the pair (default: every one)")
	c.Flags().IntVar(&limit, "limit", 100_000, "most accounts of each pair")
	return c
}

func (a *app) mailboxShowCmd() *cobra.Command {
	var pair string
	c := &cobra.Command{
		Use:   "show ACCOUNT",
		Short: "Show the mailboxes and the quota of an account",
		Long: `show lists the mailboxes of an account, and who beside its owner may post to each
by its address, user+mailbox: by the list of rights that the owner has set by
IMAP, or by mail.folders of the pair where there is none. With "-" stands who may
not, whatever else the list says.`,
		Example: `  postern mailbox show --dir ~/mail u0001@postern.test`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			d, err := f.Account(ctx, pair, args[0])
			if err != nil {
				return err
			}
			return a.emit(d, func(w io.Writer) error { return printAccount(w, d) })
		}),
	}
	c.Flags().StringVar(&pair, "pair", "", "name of the pair (default: every one)")
	return c
}

func printAccount(w io.Writer, d *admin.MailboxDetail) error {
	fmt.Fprintf(w, "%s on %s: %s of %s, %d of %s messages\n\n", table.Clean(d.Account), table.Clean(d.Pair),
		table.Size(d.UsedBytes), limitOf(d.LimitBytes, table.Size), d.UsedMessages,
		limitOf(d.LimitMsgs, func(n int64) string { return strconv.FormatInt(n, 10) }))
	t := table.New("mailbox", ">messages", ">unseen", ">size", ">uidvalidity", ">uidnext", "post", "use")
	// INBOX has somebody, unless the pair is of a release that does not tell.
	told := slices.ContainsFunc(d.Mailboxes, func(m admin.Mailbox) bool { return len(m.Post) > 0 })
	for _, m := range d.Mailboxes {
		post := strings.Join(m.Post, " ")
		if told && post == "" {
			post = "owner"
		}
		t.Row(m.Name, m.Messages, m.Unseen, table.Size(m.Size), m.UIDValidity, m.UIDNext, dash(post), dash(strings.Join(m.SpecialUse, " ")))
	}
	return t.Print(w)
}

func limitOf(n int64, show func(int64) string) string {
	if n < 0 {
		return "unlimited"
	}
	return show(n)
}

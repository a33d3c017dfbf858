package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

// explainWithin is the default of --timeout of test address: a list that is
// read without the cache takes its time.
const explainWithin = 20 * time.Second

func (a *app) testCmd() *cobra.Command {
	return a.onCluster(group("test", "Try what a cluster would do", "test asks a relay what it would do, without doing it.", a.testAddressCmd()))
}

func (a *app) testAddressCmd() *cobra.Command {
	var in admin.ExplainRequest
	var relay, at string
	c := &cobra.Command{
		Use:   "address ADDRESS",
		Short: "Show what becomes of mail for an address, and why",
		Long: `address asks a relay what it would do with mail for ADDRESS: each step of the
expansion with the rule of the directory and the attribute that decided, each
question to the directory with what it cost and whether the relay remembered the
answer, and the final recipients with channel, pair, mailbox, folder and limits.

The relay uses the code, the configuration and the remembered answers of live
mail. What it finds out it remembers, as it would for live mail. Checks that are
made before or after the directory is asked (relaying, spam, Sieve) are not part
of it.

The exit status is 0 when the address would be accepted and 1 when it would be
refused, now or for good. It is 2 when ADDRESS is no address, or nobody logs in
as --auth says.`,
		Example: `  postern test address --dir ~/mail u0001@postern.test
  postern test address --dir ~/mail team@postern.test --from boss@example.com
  postern test address --dir ~/mail list@postern.test --auth u0001 --size 5000000
  postern test address --dir ~/mail ana@postern.test --at 2026-08-01T12:00:00Z --no-cache --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("timeout") {
				a.target.timeout = explainWithin
			}
			return a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
				in.Address = args[0]
				if in.Size < 0 {
					return usagef("--size %d: want a number of octets", in.Size)
				}
				if at != "" {
					t, err := parseTime(at)
					if err != nil {
						return err
					}
					in.At = t
				}
				out, err := f.Explain(ctx, relay, in)
				if errors.Is(err, admin.ErrBadRequest) {
					return couldNotRun{err}
				}
				if err != nil {
					return err
				}
				if err := a.emit(out, func(w io.Writer) error { return printExplained(w, out) }); err != nil {
					return err
				}
				if out.Reply.Code >= 400 {
					return fmt.Errorf("%s would be refused: %d %s %s", in.Address, out.Reply.Code, out.Reply.Enhanced, out.Reply.Text)
				}
				return nil
			})(c, args)
		},
	}
	f := c.Flags()
	f.StringVar(&in.From, "from", "", "envelope sender (default: the empty one)")
	f.StringVar(&in.Auth, "auth", "", "login of the sender")
	f.StringVar(&at, "at", "", "time of the message: 2006-01-02T15:04:05Z, or 2006-01-02 (default: now)")
	f.BoolVar(&in.NoCache, "no-cache", false, "ask the directory, whatever the relay remembers")
	f.Int64Var(&in.Size, "size", 0, "size of the message in octets")
	f.StringVar(&relay, "relay", "", "name of the relay (default: the first that answers)")
	return c
}

// parseTime reads a time as people write it, in UTC unless it says otherwise.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--at %q: want a time such as 2026-08-01T12:00:00Z", s)
}

func printExplained(w io.Writer, out *admin.ExplainResult) error {
	fmt.Fprintf(w, "%s from <%s> at %s, asked of %s\n", table.Clean(out.Input), table.Clean(out.From),
		out.At.UTC().Format(time.RFC3339), table.Clean(out.Node))
	fmt.Fprintf(w, "reply: %d %s %s\n\n", out.Reply.Code, table.Clean(out.Reply.Enhanced), table.Clean(out.Reply.Text))
	for i := range out.Steps {
		printStep(w, &out.Steps[i])
	}
	fmt.Fprintf(w, "\nrecipients: %d, queries to the directory: %d, time: %s\n", len(out.Recipients), out.Queries, short(out.Took))
	if out.Truncated {
		fmt.Fprintln(w, "There are more steps or recipients than are shown.")
	}
	t := table.New("recipient", "channel", "to", "mailbox", "folder", ">quota", ">messages", ">max size", "answered", "filters", "via")
	for _, r := range out.Recipients {
		answered := "-"
		if r.Autoreply {
			answered = "yes"
		}
		t.Row(r.Address, r.Channel, dash(r.NextHop), dash(r.Mailbox), dash(r.Folder), quotaOf(r.Quota, table.Size),
			quotaOf(r.Messages, func(n int64) string { return fmt.Sprint(n) }), sizeOr(r.MaxSize), answered, dash(strings.Join(r.Filters, ", ")), dash(strings.Join(r.Via, " > ")))
	}
	return t.Print(w)
}

func printStep(w io.Writer, s *admin.ExplainStep) {
	in := strings.Repeat("  ", min(s.Depth, 20))
	if q := s.Query; q != nil {
		age := ""
		if q.Age > 0 && q.Cache != "miss" {
			age = ", " + short(q.Age) + " old"
		}
		fmt.Fprintf(w, "%s? %s %s: %s (cache %s%s, %s)\n", in, table.Clean(q.Question), table.Clean(q.Subject), table.Clean(q.Answer), q.Cache, age, short(q.Took))
		for _, l := range q.Searches {
			result := fmt.Sprintf("%d entries", l.Entries)
			if l.Error != "" {
				result = l.Error
			}
			fmt.Fprintf(w, "%s    LDAP %s of %q for %s: %s, %s\n", in, l.Scope, l.Base, table.Clean(l.Filter), table.Clean(result), short(l.Took))
		}
		return
	}
	fmt.Fprintf(w, "%s- %s: %s", in, table.Clean(s.Address), table.Clean(s.Text))
	var notes []string
	if s.Rule != "" {
		notes = append(notes, "rule "+s.Rule)
	}
	if s.Attribute != "" {
		notes = append(notes, s.Attribute)
	}
	if s.Code != 0 {
		notes = append(notes, fmt.Sprintf("%d %s", s.Code, s.Enhanced))
	}
	if s.DN != "" {
		notes = append(notes, s.DN)
	}
	if len(notes) > 0 {
		fmt.Fprintf(w, " [%s]", table.Clean(strings.Join(notes, "; ")))
	}
	fmt.Fprintln(w)
}

// short is a duration with three digits or so.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Nanosecond).String()
}

func quotaOf(n int64, show func(int64) string) string {
	switch {
	case n == -2:
		return "default"
	case n < 0:
		return "none"
	}
	return show(n)
}

func sizeOr(n int64) string {
	if n == 0 {
		return "-"
	}
	return table.Size(n)
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

// most is the default of --limit of listings.
const most = 1000

func (a *app) queueCmd() *cobra.Command {
	return a.onCluster(group("queue", "Look at and steer queued messages", "queue looks at the messages in the queues of the relays and steers them.",
		a.queueListCmd(), a.queueShowCmd(),
		a.queueActCmd(admin.QueueHold, "hold", "held", "Keep messages in the queue until they are released", ""),
		a.queueActCmd(admin.QueueRelease, "release", "released", "Let held messages go on", ""),
		a.queueActCmd(admin.QueueRetry, "retry", "to be tried now", "Try to deliver messages now", ""),
		a.queueActCmd(admin.QueueDelete, "delete", "deleted", "Delete messages from the queue",
			"delete removes messages for good. Their senders are not told."),
	))
}

// queueFilter is the flags that select messages.
type queueFilter struct {
	relay, address, state string
	limit                 int
}

func (q *queueFilter) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&q.relay, "relay", "", "name of the relay (default: every one)")
	f.StringVar(&q.address, "address", "", "only messages from or to this address")
	f.StringVar(&q.state, "state", "", "only messages in this state: queued, deferred or held")
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"queued", "deferred", "held"}, cobra.ShellCompDirectiveNoFileComp))
}

func (q *queueFilter) check() error {
	switch q.state {
	case "", "queued", "deferred", "held":
	default:
		return usagef("--state %s: want queued, deferred or held", q.state)
	}
	if q.limit < 1 {
		return usagef("--limit %d: want at least 1", q.limit)
	}
	return nil
}

func (a *app) queueListCmd() *cobra.Command {
	var q queueFilter
	c := &cobra.Command{
		Use:   "list",
		Short: "List queued messages",
		Example: `  postern queue list --dir ~/mail
  postern queue list --dir ~/mail --state held --address someone@example.com`,
		Args: cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			if err := q.check(); err != nil {
				return err
			}
			msgs, more, silent, err := f.Queue(ctx, q.relay, admin.QueueQuery{Address: q.address, State: q.state}, q.limit)
			if err != nil {
				return err
			}
			a.silent(silent)
			if more {
				a.warn("there are more messages than shown: see --limit")
			}
			return a.emit(msgs, func(w io.Writer) error { return printQueue(w, msgs, time.Now()) })
		}),
	}
	q.flags(c)
	c.Flags().IntVar(&q.limit, "limit", most, "most messages of each relay")
	return c
}

func printQueue(w io.Writer, msgs []fleet.Queued, now time.Time) error {
	t := table.New("relay", "id", "state", ">size", "age", ">tries", "next", "from", "reason")
	for _, m := range msgs {
		next := "-"
		if !m.Next.IsZero() {
			next = "now"
			if d := m.Next.Sub(now); d > 0 {
				next = "in " + duration(d)
			}
		}
		t.Row(m.Relay, m.ID, m.State, table.Size(m.Size), since(m.Arrival, now), m.Attempts, next, "<"+m.ReversePath+">", dash(m.Reason))
	}
	return t.Print(w)
}

func (a *app) queueShowCmd() *cobra.Command {
	var relay string
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a queued message and its recipients",
		Example: `  postern queue show --dir ~/mail 0FKQ3T5B8W0000000000`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			m, err := f.QueuedMessage(ctx, relay, args[0])
			if err != nil {
				return err
			}
			return a.emit(m, func(w io.Writer) error {
				if err := printQueue(w, []fleet.Queued{*m}, time.Now()); err != nil {
					return err
				}
				t := table.New("recipient", "channel", "next hop", "state", "last reply")
				for _, r := range m.Recipients {
					t.Row(r.Address, r.Channel, dash(r.NextHop), r.State, dash(r.Reply))
				}
				fmt.Fprintln(w)
				return t.Print(w)
			})
		}),
	}
	c.Flags().StringVar(&relay, "relay", "", "name of the relay (default: every one)")
	return c
}

// acted is what became of one message.
type acted struct {
	ID    string `json:"id"`
	Relay string `json:"relay,omitempty"`
	Done  bool   `json:"done"`
	Error string `json:"error,omitempty"`
}

// queueActCmd is a command that changes messages: those named, or with --all
// those that the filter selects.
func (a *app) queueActCmd(m admin.Method[admin.QueueID, admin.None], verb, done, short, long string) *cobra.Command {
	var q queueFilter
	var all, yes bool
	c := &cobra.Command{
		Use:   verb + " ID... | --all",
		Short: short,
		Long:  long,
		Example: `  postern queue ` + verb + ` --dir ~/mail 0FKQ3T5B8W0000000000
  postern queue ` + verb + ` --dir ~/mail --all --address someone@example.com`,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			q.limit = 1 << 30
			switch err := q.check(); {
			case err != nil:
				return err
			case all == (len(args) > 0):
				return usagef("queue %s: name messages by their ids, or give --all", verb)
			case !all && (q.address != "" || q.state != ""):
				return usagef("queue %s: --address and --state go with --all", verb)
			case all && verb == "delete" && !yes:
				return usagef("queue delete --all removes messages for good: add --yes")
			}
			return a.actOn(ctx, f, m, done, q, all, args)
		}),
	}
	q.flags(c)
	c.Flags().BoolVar(&all, "all", false, "every message, or those that --relay, --address and --state select")
	if verb == "delete" {
		c.Flags().BoolVar(&yes, "yes", false, "with --all: yes, delete them")
	}
	return c
}

func (a *app) actOn(ctx context.Context, f *fleet.Fleet, m admin.Method[admin.QueueID, admin.None], done string, q queueFilter, all bool, ids []string) error {
	jobs := make([]acted, 0, len(ids))
	for _, id := range ids {
		jobs = append(jobs, acted{ID: id, Relay: q.relay})
	}
	if all {
		msgs, _, silent, err := f.Queue(ctx, q.relay, admin.QueueQuery{Address: q.address, State: q.state}, q.limit)
		if err != nil {
			return err
		}
		a.silent(silent)
		for _, msg := range msgs {
			jobs = append(jobs, acted{ID: msg.ID, Relay: msg.Relay})
		}
	}
	failed := 0
	bar := a.progress("messages", len(jobs))
	for i := range jobs {
		j := &jobs[i]
		call, cancel := context.WithTimeout(ctx, changeWithin)
		by, err := f.Act(call, j.Relay, m, j.ID)
		cancel()
		if err != nil {
			if all && gone(ctx, f, j) {
				err = nil // it was delivered meanwhile
			} else {
				failed++
				j.Error = err.Error()
			}
		}
		j.Done = err == nil
		if by != "" {
			j.Relay = by
		}
		bar.step()
		if ctx.Err() != nil {
			break
		}
	}
	bar.end()
	err := a.emit(jobs, func(w io.Writer) error {
		for _, j := range jobs {
			if j.Error != "" {
				a.warn("%s: %s", j.ID, j.Error)
			}
		}
		_, err := fmt.Fprintln(w, strconv.Itoa(len(jobs)-failed), "messages", done)
		return err
	})
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failed > 0:
		return fmt.Errorf("%d of %d messages not done", failed, len(jobs))
	}
	return nil
}

// gone reports whether the relay of a listed message says that it has it no
// more.
func gone(ctx context.Context, f *fleet.Fleet, j *acted) bool {
	n, err := f.Find(j.Relay)
	if err != nil {
		return false
	}
	_, err = fleet.Call(ctx, n, admin.QueueShow, admin.QueueID{ID: j.ID})
	return errors.Is(err, admin.ErrNotFound)
}

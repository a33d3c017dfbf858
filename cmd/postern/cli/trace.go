package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

// traceOrder is the order of the fields that every reader looks for; others
// follow in the order of their names.
var traceOrder = []string{"reverse_path", "recipient", "channel", "relay", "delay", "status", "code", "reply"}

func (a *app) traceCmd() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "trace ID|ADDRESS",
		Short: "Show every step of a message over both tiers",
		Long: `trace shows every step of one message, by its trace id, queue id or Message-ID,
or of the messages from or to an address: what relays accepted, expanded, queued
and delivered, and what replicas stored, in the order of time.

Steps are kept for as long as each node's record of events reaches back. Nodes
that do not answer are named; what they know is missing then.`,
		Example: `  postern trace --dir ~/mail u0001@postern.test
  postern trace --dir ~/mail '<20260101120000.12345@client.example>'`,
		Args: cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			if limit < 1 {
				return usagef("--limit %d: want at least 1", limit)
			}
			t, err := f.Trace(ctx, args[0], limit)
			if err != nil {
				return err
			}
			for _, n := range t.Missing {
				a.warn("%s does not answer: its steps are missing", n)
			}
			if t.Truncated {
				a.warn("there are more steps than shown: see --limit")
			}
			if err := a.emit(t, func(w io.Writer) error { return printTrace(w, t.Events) }); err != nil {
				return err
			}
			if len(t.Events) == 0 {
				return fmt.Errorf("nothing is known of %s", args[0])
			}
			return nil
		}),
	}
	c.Flags().IntVar(&limit, "limit", 1000, "most steps of each node")
	return a.onCluster(c)
}

func printTrace(w io.Writer, events []admin.TraceEvent) error {
	t := table.New("time", "node", "event", "id", "details")
	for _, e := range events {
		t.Row(e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Node, e.Event, e.ID, details(&e))
	}
	return t.Print(w)
}

// details prints the fields of an event, without those that repeat its id.
func details(e *admin.TraceEvent) string {
	fields := maps.Clone(e.Fields)
	maps.DeleteFunc(fields, func(k, v string) bool { return (k == "queue_id" || k == "trace_id") && v == e.ID })
	keys := slices.Clone(traceOrder)
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	var parts []string
	for _, k := range keys {
		v, ok := fields[k]
		if !ok {
			continue
		}
		if strings.ContainsAny(v, ` "=`) || v == "" {
			v = fmt.Sprintf("%q", v)
		}
		parts = append(parts, k+"="+v)
	}
	return strings.Join(parts, " ")
}

package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
)

const (
	// askWithin is the default of --timeout.
	askWithin = 2 * time.Second
	// changeWithin is the time of a hand-over or the stop of a node.
	changeWithin = 30 * time.Second
)

// target is the flags that name a cluster.
type target struct {
	dir           string
	nodes         []string
	cert, key, ca string
	timeout       time.Duration
}

// onCluster adds the flags that name a cluster to c and the commands below it.
func (a *app) onCluster(c *cobra.Command) *cobra.Command {
	t, f := &a.target, c.PersistentFlags()
	f.StringVar(&t.dir, "dir", "", "folder of a development cluster, or state directory of a node on this machine")
	f.StringSliceVar(&t.nodes, "node", nil, "admin port of a node, host:port; more than one with commas")
	f.StringVar(&t.cert, "cert", "", "certificate of role admin, for --node")
	f.StringVar(&t.key, "key", "", "key of --cert")
	f.StringVar(&t.ca, "ca", "", "CA of the cluster, for --node")
	f.DurationVar(&t.timeout, "timeout", askWithin, "time that a node has to answer")
	_ = c.MarkPersistentFlagDirname("dir")
	for _, name := range []string{"cert", "key", "ca"} {
		_ = c.MarkPersistentFlagFilename(name, "pem")
	}
	return c
}

// open finds the cluster that the flags name.
func (a *app) open(ctx context.Context) (*fleet.Fleet, error) {
	t := &a.target
	if t.timeout <= 0 {
		return nil, usagef("--timeout %v: want more than 0", t.timeout)
	}
	f, err := fleet.Open(ctx, fleet.Target{Dir: t.dir, Nodes: t.nodes, Cert: t.cert, Key: t.key, CA: t.ca, Timeout: t.timeout})
	if err != nil {
		return nil, couldNotRun{err}
	}
	return f, nil
}

// withFleet runs f on the cluster that the flags name.
func (a *app) withFleet(f func(ctx context.Context, fl *fleet.Fleet, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		fl, err := a.open(c.Context())
		if err != nil {
			return err
		}
		defer fl.Close()
		err = f(c.Context(), fl, args)
		if errors.Is(err, fleet.ErrNobody) {
			return couldNotRun{err}
		}
		return err
	}
}

// silent warns of nodes that did not answer.
func (a *app) silent(errs []error) {
	for _, err := range errs {
		a.warn("%v", err)
	}
}

func trimLine(s string) string { return strings.TrimRight(s, "\r\n") }

// since prints how long ago t was.
func since(t time.Time, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration(now.Sub(t))
}

// duration prints d with its two largest units.
func duration(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d < 48*time.Hour:
		return strings.TrimSuffix(strings.TrimSuffix(d.Round(time.Minute).String(), "0s"), "0m")
	}
	return days(d)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

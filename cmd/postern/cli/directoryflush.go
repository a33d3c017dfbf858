package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

// directoryFlushCmd is about the relays, not about the directory: of the flags
// of the group it takes --dir, --ca and --timeout, as the commands on a cluster
// do.
func (a *app) directoryFlushCmd(d *directoryFlags) *cobra.Command {
	var relay string
	var all bool
	t := &a.target
	c := &cobra.Command{
		Use:   "flush [ADDRESS|DOMAIN]...",
		Short: "Make the relays forget what they remember of the directory",
		Long: `flush makes every relay forget what it remembers of the addresses and domains
given, and of whoever has such an address under all names, so that a change of
the directory counts at once and not when the answers are old (directory.cache_ttl).

A relay that does not answer is named, and the exit status is 1.`,
		Example: "  postern directory flush --dir ~/mail ana@example.org\n  postern directory flush --dir ~/mail example.org\n" +
			"  postern directory flush --node relay1:8405 --cert admin.pem --key admin-key.pem --ca ca.pem --all",
		RunE: func(c *cobra.Command, args []string) error {
			in := admin.FlushRequest{All: all}
			for _, name := range args {
				if strings.Contains(name, "@") {
					in.Addresses = append(in.Addresses, name)
				} else {
					in.Domains = append(in.Domains, name)
				}
			}
			if all == (len(args) > 0) {
				return usagef("name addresses or domains, or give --all")
			}
			t.dir, t.ca, t.timeout = d.dir, d.ca, d.timeout
			return a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
				done, err := f.Flush(ctx, relay, in)
				if err != nil && len(done) == 0 {
					return err
				}
				perr := a.emit(done, func(w io.Writer) error {
					t := table.New("relay", "answers forgotten")
					for _, r := range done {
						t.Row(r.Relay, fmt.Sprint(r.Forgotten))
					}
					return t.Print(w)
				})
				if err != nil {
					return err
				}
				return perr
			})(c, args)
		},
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "forget everything")
	f.StringVar(&relay, "relay", "", "name of the relay (default: every one)")
	f.StringSliceVar(&t.nodes, "node", nil, "admin port of a relay, host:port; more than one with commas")
	f.StringVar(&t.cert, "cert", "", "certificate of role admin, for --node")
	f.StringVar(&t.key, "key", "", "key of --cert")
	for _, name := range []string{"cert", "key"} {
		_ = c.MarkFlagFilename(name, "pem")
	}
	return c
}

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/shared/tlsconf"
)

func (a *app) pkiRotateCmd(dir *string) *cobra.Command {
	var keep bool
	r := fleet.Rotation{}
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the certificates of a running cluster, and their CA",
		Long: `rotate makes a new CA, in the folder next of --ca-dir, and brings the cluster to it
while it runs, open sessions going on:

  1. every node trusts the old and the new CA
  2. node by node gets a certificate of the new CA for a new key, which never leaves
     the node; the next one follows when the node is well and seen by all others
  3. every node trusts the new CA only, and the new CA takes its place in --ca-dir;
     the old one is kept there in a folder until-DATE

With --node, the operator's files --cert, --key and --ca change along.

No step begins before every member has done the one before. rotate ends at the
first node that fails and goes on there when it is run again; so it does after it
was cut off. Certificates of role admin that others hold, and those made with
--public, are not found: end after step 2 with --overlap, make them anew with
--ca-dir CA-DIR/next, and run rotate again without --overlap.

With --keep-ca only the certificates are made anew, from the CA that there is.`,
		Example: `  postern pki rotate --dir ~/mail --ca-dir ~/mail/ca
  postern pki rotate --node 10.0.0.5:7400 --cert admin.pem --key admin-key.pem --ca ca.pem --ca-dir /root/postern-ca`,
		Args: cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			if keep && r.Overlap || !keep && r.Within > 0 {
				return usagef("--overlap is for a new CA, --within for --keep-ca")
			}
			r.Say = func(format string, args ...any) { fmt.Fprintf(a.err, "%s\n", cleanLines(fmt.Sprintf(format, args...))) }
			return rotate(ctx, f, r, *dir, keep)
		}),
	}
	fs := c.Flags()
	fs.BoolVar(&keep, "keep-ca", false, "only replace the certificates of the nodes")
	fs.DurationVar(&r.Within, "within", 0, "with --keep-ca, only those that end within this time (default: all)")
	fs.BoolVar(&r.Overlap, "overlap", false, "end while both CAs are trusted; without it, another run goes on from there")
	fs.DurationVar(&r.Settle, "settle-timeout", time.Minute, "time for a node to be well, and seen by the others, with its new certificate")
	withoutFlag(c, &r.Without)
	return a.onCluster(c)
}

func rotate(ctx context.Context, f *fleet.Fleet, r fleet.Rotation, dir string, keep bool) error {
	if tlsconf.Promoting(dir) {
		r.Say("the new CA was taking its place in %s", dir)
		return tlsconf.Promote(dir, time.Now())
	}
	var err error
	r.Dir = dir
	if r.CA, err = tlsconf.OpenCA(dir); err != nil {
		return couldNotRun{fmt.Errorf("CA in %s: %w", dir, err)}
	}
	if !keep {
		if r.Next, err = tlsconf.OpenNext(dir, r.CA.Cluster, time.Now()); err != nil {
			return couldNotRun{fmt.Errorf("next CA in %s: %w", dir, err)}
		}
	}
	if err := f.RotatePKI(ctx, r); err != nil {
		return err
	}
	switch {
	case keep:
		return nil
	case r.Overlap:
		r.Say("every node has a certificate of the new CA and trusts both: rotate without --overlap ends it")
		return nil
	}
	if err := tlsconf.Promote(dir, time.Now()); err != nil {
		return err
	}
	r.Say("the new CA is in %s", dir)
	return nil
}

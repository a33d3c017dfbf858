package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/cmd/internal/logcopy"
	"github.com/postern-mail/postern/cmd/internal/reconstruct"
	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
)

// onReplica is the flags that name a data replica.
type onReplica struct{ pair, node string }

func (o *onReplica) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.pair, "pair", "", "name of the pair, when there is more than one")
	c.Flags().StringVar(&o.node, "on", "", "name of the node (default: the one that serves)")
}

func (a *app) backupCmd() *cobra.Command {
	return a.onCluster(group("backup", "Make, check and restore snapshots of pairs",
		`backup looks after the snapshots of data replicas. A snapshot is what a replica
holds at one moment, under load too: its metadata and its log, of which sealed
segments are shared with the replica as long as they are not compacted. A
snapshot that is to outlive the machine's disk is copied elsewhere.`,
		a.backupCreateCmd(), a.backupListCmd(), a.backupShowCmd(), a.backupVerifyCmd(), a.backupRestoreCmd(),
		a.backupRemoveCmd(), a.backupPairCmd()))
}

func (a *app) backupCreateCmd() *cobra.Command {
	var on onReplica
	var copyTo string
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a snapshot that stays until it is removed",
		Long: `create makes a snapshot on the node of a data replica. Snapshots made so are not
removed by the schedule. With --copy-to the node also writes a copy with octets
of its own into a directory, such as a mounted backup disk.`,
		Example: `  postern backup create --dir ~/mail before-upgrade
  postern backup create --dir ~/mail --on pair1-b --copy-to /backup/pair1`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			return a.task(ctx, f, &on, admin.UpkeepTask{Task: admin.TaskSnapshot, Name: strings.Join(args, ""), CopyTo: copyTo})
		}),
	}
	on.flags(c)
	c.Flags().StringVar(&copyTo, "copy-to", "", "directory on the node for a copy")
	return c
}

func (a *app) backupListCmd() *cobra.Command {
	var on onReplica
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the snapshots of a replica",
		Example: `  postern backup list --dir ~/mail --on pair1-b`,
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			n, err := f.Holder(ctx, on.pair, on.node)
			if err != nil {
				return err
			}
			list, err := fleet.Call(ctx, n, admin.BackupList, admin.PairName{Pair: n.Pair})
			if err != nil {
				return err
			}
			return a.emit(list, func(w io.Writer) error {
				t := table.New("snapshot", "made", "by", ">entry", ">messages", ">size", "digest")
				for _, s := range list.Snapshots {
					by := "schedule"
					if s.Kept {
						by = "hand"
					}
					t.Row(s.Name, s.Created.Local().Format(time.DateTime), by, s.Applied, s.Messages, table.Size(int64(s.Bytes)), fmt.Sprintf("%.12s", s.Digest))
				}
				return t.Print(w)
			})
		}),
	}
	on.flags(c)
	return c
}

func (a *app) backupShowCmd() *cobra.Command {
	var on onReplica
	q := admin.BackupQuery{}
	c := &cobra.Command{
		Use:   "show NAME ACCOUNT [FOLDER]",
		Short: "Show what a snapshot holds of an account",
		Long: `show lists the folders of an account as they are in a snapshot, or the messages
of one folder with their UIDs, for restore --uid.`,
		Example: `  postern backup show --dir ~/mail before-upgrade u0001@postern.test
  postern backup show --dir ~/mail before-upgrade u0001@postern.test INBOX`,
		Args: cobra.RangeArgs(2, 3),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			if q.Limit < 1 || q.Limit > 10_000 {
				return usagef("--limit %d: want 1 to 10000", q.Limit)
			}
			n, err := f.Holder(ctx, on.pair, on.node)
			if err != nil {
				return err
			}
			q.Pair, q.Name, q.Account = n.Pair, args[0], args[1]
			if len(args) > 2 {
				q.Folder = args[2]
			}
			out, err := fleet.Call(ctx, n, admin.BackupShow, q)
			if err != nil {
				return err
			}
			if out.More {
				a.warn("there are more messages than shown: see --after and --limit")
			}
			return a.emit(out, func(w io.Writer) error { return printContent(w, &out, q.Folder != "") })
		}),
	}
	on.flags(c)
	c.Flags().Uint32Var(&q.After, "after", 0, "begin after this UID")
	c.Flags().IntVar(&q.Limit, "limit", 1000, "most messages shown")
	return c
}

func printContent(w io.Writer, c *admin.BackupContent, messages bool) error {
	if !messages {
		t := table.New("folder", ">messages", ">unseen", ">size")
		for _, m := range c.Mailboxes {
			t.Row(m.Name, m.Messages, m.Unseen, table.Size(m.Size))
		}
		return t.Print(w)
	}
	t := table.New(">uid", "received", ">size", "from", "subject")
	for _, m := range c.Messages {
		t.Row(m.UID, m.Received.Local().Format(time.DateTime), table.Size(m.Size), dash(m.From), dash(m.Subject))
	}
	return t.Print(w)
}

func (a *app) backupVerifyCmd() *cobra.Command {
	var on onReplica
	var path string
	c := &cobra.Command{
		Use:   "verify [NAME]",
		Short: "Read a snapshot whole and check it",
		Long: `verify reads every file of a snapshot and checks segments, metadata and the hash
of every message. With --path it reads a copy on this machine and asks no node.`,
		Example: `  postern backup verify --dir ~/mail before-upgrade
  postern backup verify --path /backup/pair1/before-upgrade`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case (path != "") == (len(args) > 0):
				return usagef("name a snapshot, or a copy by --path")
			case path != "":
				got, err := snapshot.Verify(c.Context(), path, logcopy.Open, logcopy.Check)
				if err != nil {
					return err
				}
				return a.emit(got, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%d files and %d messages of %s are good\n", got.Files, got.Messages, table.Size(got.Octets))
					return err
				})
			}
			return a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
				return a.task(ctx, f, &on, admin.UpkeepTask{Task: admin.TaskVerify, Name: args[0]})
			})(c, args)
		},
	}
	on.flags(c)
	c.Flags().StringVar(&path, "path", "", "directory of a copy on this machine")
	return c
}

func (a *app) backupRestoreCmd() *cobra.Command {
	var on onReplica
	var uids []string
	r := &admin.Restore{}
	c := &cobra.Command{
		Use:   "restore NAME",
		Short: "Put messages of a snapshot back",
		Long: `restore appends messages of a snapshot to a folder, with their flags and dates:
those of an account, of one folder, or single ones by their UIDs in the snapshot.
What is there stays. Without --to they go below the folder Restored, each under
the name that it had. A folder that is made by it has the list of rights, the
special use, if no other folder has that, and the subscription that it had in the
snapshot; one that is there, and one that gets single messages, does not. The
snapshot must be on the node that serves the pair; see pair transfer.`,
		Example: `  postern backup restore --dir ~/mail monday --account u0001@postern.test
  postern backup restore --dir ~/mail monday --account u0001@postern.test --folder INBOX --uid 17,18 --to INBOX`,
		Args: cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			for _, s := range uids {
				uid, err := strconv.ParseUint(s, 10, 32)
				if err != nil || uid == 0 {
					return usagef("--uid %s: want numbers", s)
				}
				r.UIDs = append(r.UIDs, uint32(uid))
			}
			if r.UIDs != nil && r.Folder == "" {
				return usagef("--uid needs --folder")
			}
			return a.task(ctx, f, &on, admin.UpkeepTask{Task: admin.TaskRestore, Name: args[0], Restore: r})
		}),
	}
	on.flags(c)
	f := c.Flags()
	f.StringVar(&r.Account, "account", "", "account in the snapshot")
	f.StringVar(&r.Folder, "folder", "", "folder in the snapshot (default: every one)")
	f.StringSliceVar(&uids, "uid", nil, "UIDs in the folder (default: all messages)")
	f.StringVar(&r.Into, "into", "", "account that gets them (default: the same)")
	f.StringVar(&r.To, "to", "", "folder that gets them")
	_ = c.MarkFlagRequired("account")
	return c
}

func (a *app) backupRemoveCmd() *cobra.Command {
	var on onReplica
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a snapshot",
		Long: `remove removes a snapshot. The last one of a replica whose log has been compacted
is refused: without it damaged metadata could not be made anew there.`,
		Example: `  postern backup remove --dir ~/mail before-upgrade`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			return a.task(ctx, f, &on, admin.UpkeepTask{Task: admin.TaskRemove, Name: args[0]})
		}),
	}
	on.flags(c)
	return c
}

func (a *app) backupPairCmd() *cobra.Command {
	var file, pair, from string
	var yes bool
	c := &cobra.Command{
		Use:   "restore-pair",
		Short: "Make the first replica of a lost pair out of a snapshot",
		Long: `restore-pair is for a pair of which no replica is left. On the machine of a
backend that does not run, it makes the empty directory of the pair's replica out
of a snapshot, as a group of one under a new id. Start the node, and add the other
data replica and the witness with pair add.

Changes since the snapshot are lost. A replica of the old pair that turns up must
not be started again.`,
		Example: `  postern backup restore-pair --config /etc/postern/backend.yaml --from /backup/pair1/monday`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.Load[config.Backend](file, nil)
			if err != nil {
				return couldNotRun{err}
			}
			g, err := groupOf(conf, pair)
			if err != nil {
				return err
			}
			if err := a.confirm(yes, "the pair %s begins again from %s; replicas that it had must not run any more", g.Pair, from); err != nil {
				return err
			}
			for _, m := range g.Members {
				if m.Node != conf.Node {
					continue
				}
				w, err := reconstruct.Pair(c.Context(), from, g.Dir, g.Pair, m.Node, m.Addr)
				if err != nil {
					return err
				}
				return a.emit(w, func(out io.Writer) error {
					_, err := fmt.Fprintf(out, "%s holds pair %s as of entry %d, under the id %s\n", w.Dir, w.Pair, w.Applied, w.ID)
					return err
				})
			}
			return usagef("node %s is no member of pair %s", conf.Node, g.Pair)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file of the backend")
	f.StringVar(&pair, "pair", "", "name of the pair, when the node has more than one")
	f.StringVar(&from, "from", "", "directory of the snapshot")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	_ = errors.Join(c.MarkFlagRequired("config"), c.MarkFlagRequired("from"))
	return c
}

// groupOf returns a group of a backend's configuration.
func groupOf(conf *config.Backend, pair string) (*config.Group, error) {
	for i := range conf.Groups {
		if g := &conf.Groups[i]; g.Pair == pair || pair == "" && len(conf.Groups) == 1 {
			return g, nil
		}
	}
	return nil, usagef("which pair? The node has %d", len(conf.Groups))
}

// task has a replica do something and waits for it.
func (a *app) task(ctx context.Context, f *fleet.Fleet, on *onReplica, task admin.UpkeepTask) error {
	n, err := f.Holder(ctx, on.pair, on.node)
	if err != nil {
		return err
	}
	job, err := fleet.Do(ctx, n, task, nil)
	if err != nil {
		return err
	}
	return a.emit(job, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s\n", table.Clean(n.Title()), table.Clean(job.Result))
		return err
	})
}

// snapshotsOf is where a group's snapshots are.
func snapshotsOf(conf *config.Backend, g *config.Group) string {
	if conf.Snapshots.Dir != "" {
		return filepath.Join(conf.Snapshots.Dir, g.Pair)
	}
	return filepath.Join(g.Dir, "snapshots")
}

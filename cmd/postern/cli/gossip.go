package cli

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

func (a *app) gossipCmd() *cobra.Command {
	return group("gossip", "Keys of the membership protocol", "",
		group("key", "Keys of the membership protocol",
			`key changes the keys that encrypt the membership protocol while the cluster runs:

  postern gossip key add         every node learns a new key
  postern gossip key use ID      every node encrypts with it
  postern gossip key remove OLD  every node forgets the old one

Each step is done on every member before the next may begin, and is written to the
nodes' gossip.key_file, so that a restart keeps it. A step ends at the first node
that does not take it, and goes on there when it is given again. Keys are shown by
their ID, a part of a hash.`,
			a.gossipNewCmd(), a.gossipListCmd(), a.gossipAddCmd(), a.gossipUseCmd(), a.gossipRemoveCmd()))
}

func newGossipKey() string {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	return base64.StdEncoding.EncodeToString(key[:])
}

func (a *app) gossipNewCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Make a key for the membership protocol",
		Long: `new prints a random key of 32 octets in base64, for the gossip.key_file of the nodes
of a new cluster. A cluster that runs gets another key by add.`,
		Example: `  postern gossip key new > gossip.key`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text := newGossipKey()
			return a.emit(map[string]string{"key": text}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, text)
				return err
			})
		},
	}
}

// withoutFlag adds --without.
func withoutFlag(c *cobra.Command, without *[]string) {
	c.Flags().StringSliceVar(without, "without", nil, "members to leave out, because they do not come back; more than one with commas")
}

func (a *app) gossipListCmd() *cobra.Command {
	var without []string
	c := &cobra.Command{
		Use:     "list",
		Short:   "Show the keys of every node by their IDs",
		Long:    `list shows the keys of every node, the one that encrypts first.`,
		Example: `  postern gossip key list --dir ~/mail`,
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			keys, err := f.GossipKeys(ctx, without)
			if err != nil {
				return err
			}
			return a.emit(keys, func(w io.Writer) error { return printKeys(w, keys) })
		}),
	}
	withoutFlag(c, &without)
	return a.onCluster(c)
}

func (a *app) gossipAddCmd() *cobra.Command {
	var without []string
	var file, out string
	c := &cobra.Command{
		Use:   "add",
		Short: "Have every node learn a key",
		Long: `add makes a new key, or takes the one of --key-file, and has every node decrypt with
it. If it ends before every node has it, give it again with the same key: --out
keeps one that was made, which a node that is added to the cluster later needs too.`,
		Example: `  postern gossip key add --dir ~/mail --out new.key
  postern gossip key add --dir ~/mail --key-file new.key`,
		Args: cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			key := newGossipKey()
			if file != "" {
				data, err := os.ReadFile(file)
				if err != nil {
					return couldNotRun{err}
				}
				key = strings.TrimSpace(string(data))
				if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 32 {
					return couldNotRun{fmt.Errorf("%s: want one key of 32 octets in base64", file)}
				}
			}
			if out != "" {
				if err := clusterfile.Replace(out, []byte(key+"\n"), 0o600); err != nil {
					return couldNotRun{err}
				}
			}
			return a.changeKeys(ctx, f, admin.KeyChange{Op: "add", Key: admin.Hidden(key)}, without)
		}),
	}
	c.Flags().StringVar(&file, "key-file", "", "file with the key to add (default: a new one)")
	c.Flags().StringVar(&out, "out", "", "file to keep the key in")
	c.MarkFlagsMutuallyExclusive("key-file", "out")
	withoutFlag(c, &without)
	return a.onCluster(c)
}

func (a *app) gossipUseCmd() *cobra.Command {
	var without []string
	c := &cobra.Command{
		Use:   "use ID",
		Short: "Have every node encrypt with a key",
		Long: `use has every node encrypt with a key that all of them have; it does not begin while
one lacks it.`,
		Example: `  postern gossip key use --dir ~/mail 3f9c0a51b2d7`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			return a.changeKeys(ctx, f, admin.KeyChange{Op: "use", ID: args[0]}, without)
		}),
	}
	withoutFlag(c, &without)
	return a.onCluster(c)
}

func (a *app) gossipRemoveCmd() *cobra.Command {
	var without []string
	c := &cobra.Command{
		Use:   "remove ID",
		Short: "Have every node forget a key",
		Long: `remove has every node forget a key; it does not begin while one encrypts with it. A
member that was away, and has the old key only, is shut out from then on.`,
		Example: `  postern gossip key remove --dir ~/mail 9b04e77d10ac`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			return a.changeKeys(ctx, f, admin.KeyChange{Op: "remove", ID: args[0]}, without)
		}),
	}
	withoutFlag(c, &without)
	return a.onCluster(c)
}

func (a *app) changeKeys(ctx context.Context, f *fleet.Fleet, in admin.KeyChange, without []string) error {
	keys, err := f.ChangeGossipKeys(ctx, in, without)
	if err != nil {
		return err
	}
	return a.emit(keys, func(w io.Writer) error { return printKeys(w, keys) })
}

func printKeys(w io.Writer, list []fleet.NodeKeys) error {
	t := table.New("node", "encrypts", "decrypts too")
	for _, n := range list {
		first, rest := "-", "-"
		if len(n.Keys) > 0 {
			first, rest = n.Keys[0], dash(strings.Join(n.Keys[1:], " "))
		}
		t.Row(n.Node, first, rest)
	}
	return t.Print(w)
}

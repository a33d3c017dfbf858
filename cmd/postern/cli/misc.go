package cli

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/shared/config"
)

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  postern version --output json`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{version.String(), runtime.Version()}
			return a.emit(v, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "postern", v.Version, v.Go)
				return err
			})
		},
	}
}

func (a *app) gossipCmd() *cobra.Command {
	newKey := &cobra.Command{
		Use:   "new",
		Short: "Make a key for the membership protocol",
		Long: `new prints a random key of 32 octets in base64, for gossip.key_file. To replace a
key, add the new one as second line on every node and reload, then make it the
first and reload, then remove the old one and reload.`,
		Example: `  postern gossip key new > gossip.key`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var key [32]byte
			_, _ = rand.Read(key[:]) // never fails
			text := base64.StdEncoding.EncodeToString(key[:])
			return a.emit(map[string]string{"key": text}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, text)
				return err
			})
		},
	}
	return group("gossip", "Keys of the membership protocol", "",
		group("key", "Keys of the membership protocol", "", newKey))
}

func (a *app) configCmd() *cobra.Command {
	reference := &cobra.Command{
		Use:     "reference",
		Short:   "Print every option of the daemons, in Markdown",
		Example: `  postern config reference > options.md`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.output == outJSON {
				return a.emit(options(), nil)
			}
			return config.Reference(a.out)
		},
	}
	var role string
	check := &cobra.Command{
		Use:   "check FILE",
		Short: "Check the configuration file of a node",
		Long: `check reads a configuration file as the daemon of --role would, with the
POSTERN_* variables of the environment, and names every fault with its line.`,
		Example: `  postern config check --role relay /etc/postern/relay.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return couldNotRun{err}
			}
			var err error
			switch role {
			case "relay":
				_, err = config.Load[config.Relay](args[0], nil)
			case "backend":
				_, err = config.Load[config.Backend](args[0], nil)
			case "witness":
				_, err = config.Load[config.Witness](args[0], nil)
			default:
				return usagef("--role %q: want relay, backend or witness", role)
			}
			if err != nil {
				return err
			}
			return a.emit(map[string]any{"file": args[0], "ok": true}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is good for a %s\n", args[0], role)
				return err
			})
		},
	}
	check.Flags().StringVar(&role, "role", "", "daemon that the file is for: relay, backend or witness")
	_ = check.MarkFlagRequired("role")
	_ = check.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"relay", "backend", "witness"}, cobra.ShellCompDirectiveNoFileComp))
	return group("config", "Options of the daemons", "", reference, check)
}

// option is one row of the reference.
type option struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Unit    string   `json:"unit,omitempty"`
	Default string   `json:"default"`
	Tier    string   `json:"tier"`
	Reload  bool     `json:"reload"`
	Need    bool     `json:"must_be_given"`
	Values  []string `json:"values,omitempty"`
	Help    string   `json:"help"`
}

func options() []option {
	out := make([]option, 0, len(config.Table))
	for _, o := range config.Table {
		out = append(out, option{o.Name, string(o.Type), o.Unit, o.Default, o.Tier.String(), o.Reload, o.Need, o.Values, o.Help})
	}
	return out
}

package cli

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/internal/version"
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

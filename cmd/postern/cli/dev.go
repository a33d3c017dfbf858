package cli

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/dev"
)

func (a *app) devCmd() *cobra.Command {
	var o dev.Options
	var passwordFile string
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine",
		Long: `dev runs a whole cluster on loopback addresses in the foreground: an LDAP
directory and a DNS in this process, and a process each for the relays, the
replicas and the witness of each pair. It makes the certificates that they need.
When every part is ready it prints the addresses, a login and what to try, and
writes them to cluster.json in the folder of the cluster.

^C or SIGTERM stops everything: relays first, then replicas, then witnesses. With
--dir the data and the addresses stay for the next time; without it they are in
a temporary folder that is removed.

Clients may send passwords without TLS, from this machine only. Mail to domains
that are not the cluster's own is returned: its DNS knows no others.`,
		Example: `  postern dev
  postern dev --dir ~/mail --relays 1 --users 20
  postern dev --ldif people.ldif --domain example.com
  postern dev --directory ldap://ldap.example.com --base o=isp --domain example.com`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Given, o.Out = c.Flags().Changed, a.out
			if passwordFile != "" {
				text, err := os.ReadFile(passwordFile)
				if err != nil {
					return couldNotRun{err}
				}
				o.BindPassword = trimLine(string(text))
			}
			err := dev.Run(c.Context(), o)
			if errors.Is(err, dev.ErrNotStarted) {
				return couldNotRun{err}
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "folder that keeps the cluster (default: a temporary one)")
	f.IntVar(&o.Relays, "relays", 2, "number of relays")
	f.IntVar(&o.Pairs, "pairs", 1, "number of pairs")
	f.IntVar(&o.Users, "users", 3, "number of users u0001, u0002 ... with the password secret")
	f.StringVar(&o.Domain, "domain", "postern.test", "mail domain; with --ldif, the first one in the file")
	f.StringVar(&o.PairPrefix, "pair-prefix", "pair", "name of the pairs before their number, as in mailHost")
	f.StringVar(&o.LDIF, "ldif", "", "file with the tree to load into the directory, with Sun Schema 2 attributes")
	f.StringVar(&o.Directory, "directory", "", "URL of an LDAP server to use instead of one of our own")
	f.StringVar(&o.Base, "base", "", "name below which everything is searched, with --directory or --ldif")
	f.StringVar(&o.BindDN, "bind-dn", "", "name to bind as, with --directory (default: anonymous)")
	f.StringVar(&o.BindPassword, "bind-password", "", "password of --bind-dn")
	f.StringVar(&passwordFile, "bind-password-file", "", "file with the password of --bind-dn")
	f.BoolVar(&o.BenchPorts, "bench-ports", false, "give each replica plain LMTP and IMAP ports for measuring, without TLS or LDAP")
	f.BoolVar(&o.Responder, "responder", false, `have the relays answer DNS for mx.DOMAIN, and listen for SMTP on 127.0.0.11, 127.0.0.12 ... too,
all on one port (Linux)`)
	f.BoolVar(&o.NoRestart, "no-restart", false, "leave a node that ends down")
	f.StringVar(&o.Binaries, "binaries", "", "folder with the daemons to run (default: the one of this program)")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "print nothing")
	c.MarkFlagsMutuallyExclusive("bind-password", "bind-password-file")
	c.MarkFlagsMutuallyExclusive("ldif", "directory")
	_ = c.MarkFlagDirname("dir")
	_ = c.MarkFlagDirname("binaries")
	_ = c.MarkFlagFilename("ldif", "ldif")
	c.AddCommand(a.devServicesCmd())
	return c
}

func (a *app) devServicesCmd() *cobra.Command {
	var o dev.ServicesOptions
	c := &cobra.Command{
		Use:   "services",
		Short: "Serve a directory and a DNS for an example",
		Long: `services serves what a cluster needs and does not bring along, in the foreground:
an LDAP directory from a file or of people that are made up (u0001, u0002 ... with
the password secret), and a DNS from a master file. Nothing is kept. With a
certificate the directory takes passwords of other hosts after StartTLS only.`,
		Example: `  postern dev services --ldap 10.77.2.5:389 --domain example.com --users 10
  postern dev services --dns 192.0.2.10:53 --zone example.com.zone --origin example.com`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return dev.Services(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.LDAP, "ldap", "", "address of the directory")
	f.StringVar(&o.LDIF, "ldif", "", "file with its tree (default: people that are made up)")
	f.StringVar(&o.Domain, "domain", "postern.test", "mail domain of the people that are made up")
	f.IntVar(&o.Users, "users", 3, "number of people that are made up")
	f.IntVar(&o.Pairs, "pairs", 1, "number of pairs that they live on")
	f.StringVar(&o.Cert, "tls-cert", "", "certificate for StartTLS")
	f.StringVar(&o.Key, "tls-key", "", "key of --tls-cert")
	f.StringVar(&o.DNS, "dns", "", "address of the DNS")
	f.StringVar(&o.Zone, "zone", "", "master file of the DNS")
	f.StringVar(&o.Origin, "origin", ".", "domain of relative names in --zone")
	c.MarkFlagsRequiredTogether("dns", "zone")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	_ = c.MarkFlagFilename("ldif", "ldif")
	return c
}

package cli

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/tlsconf"
)

func (a *app) pkiCmd() *cobra.Command {
	var dir string
	c := group("pki", "The cluster's own certificates",
		`pki makes the certificates by which nodes know each other, from a CA of the
cluster's own. The key of the CA stays in the folder --ca-dir, on the operator's
machine; nodes get ca.pem, their certificate and their key.`,
		a.pkiInitCmd(&dir), a.pkiIssueCmd(&dir), a.pkiRenewCmd(&dir), a.pkiRotateCmd(&dir), a.pkiShowCmd())
	c.PersistentFlags().StringVar(&dir, "ca-dir", "pki", "folder of the CA")
	_ = c.MarkPersistentFlagDirname("ca-dir")
	return c
}

// certificate is what the pki commands tell of one.
type certificate struct {
	File        string    `json:"file"`
	Key         string    `json:"key,omitempty"`
	Name        string    `json:"name"`
	Cluster     string    `json:"cluster,omitempty"`
	Roles       []string  `json:"roles"`
	CA          bool      `json:"ca,omitempty"`
	DNSNames    []string  `json:"dns_names"`
	IPs         []string  `json:"ips"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"sha256"`
}

func describeCert(file, key string, cert *x509.Certificate) certificate {
	fp := tlsconf.FingerprintOf(cert.Raw)
	c := certificate{
		File: file, Key: key, Name: cert.Subject.CommonName, Roles: []string{}, CA: cert.IsCA,
		DNSNames: append([]string{}, cert.DNSNames...), IPs: []string{},
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Fingerprint: hex.EncodeToString(fp[:]),
	}
	for _, ip := range cert.IPAddresses {
		c.IPs = append(c.IPs, ip.String())
	}
	if id, err := tlsconf.IdentityOf(cert); err == nil {
		c.Name, c.Cluster = id.Node, id.Cluster
		for _, r := range id.Roles {
			c.Roles = append(c.Roles, string(r))
		}
	} else if cert.IsCA && len(cert.Subject.Organization) == 1 {
		c.Cluster = cert.Subject.Organization[0]
	}
	return c
}

func (a *app) emitCerts(certs ...certificate) error {
	return a.emit(certs, func(w io.Writer) error {
		t := table.New("file", "name", "cluster", "roles", "host names", "ends", "in", "sha256")
		for _, c := range certs {
			roles := strings.Join(c.Roles, " ")
			switch {
			case c.CA:
				roles = "CA"
			case roles == "":
				roles = "public"
			}
			hosts := strings.Join(append(append([]string{}, c.DNSNames...), c.IPs...), " ")
			t.Row(c.File, c.Name, dash(c.Cluster), roles, dash(hosts), c.NotAfter.Format(time.DateOnly), days(time.Until(c.NotAfter)), c.Fingerprint[:16])
		}
		return t.Print(w)
	})
}

func (a *app) pkiInitCmd(dir *string) *cobra.Command {
	var cluster string
	c := &cobra.Command{
		Use:     "init",
		Short:   "Make the CA of a cluster",
		Example: `  postern pki init --cluster example --ca-dir /root/postern-ca`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			ca, err := tlsconf.InitCA(*dir, cluster, time.Now())
			if err != nil {
				return err
			}
			file := filepath.Join(*dir, tlsconf.CACertName)
			cert, err := tlsconf.ReadCert(file)
			if err != nil {
				return err
			}
			d := describeCert(file, filepath.Join(*dir, tlsconf.CAKeyName), cert)
			d.Cluster = ca.Cluster
			return a.emitCerts(d)
		},
	}
	c.Flags().StringVar(&cluster, "cluster", "", "name of the cluster: letters in lower case, digits, hyphens and dots")
	_ = c.MarkFlagRequired("cluster")
	return c
}

func (a *app) pkiIssueCmd(dir *string) *cobra.Command {
	var roles, names, ips []string
	var out string
	var life time.Duration
	var public bool
	c := &cobra.Command{
		Use:   "issue NODE",
		Short: "Make a certificate and its key",
		Long: `issue makes a certificate for a node, with what it may do towards other nodes:

  relay-mx     deliver to replicas
  relay-proxy  open sessions at replicas for users who logged in
  backend      hold replicas
  witness      hold the logs of pairs
  admin        use the admin API

With --public it makes one without a role, for the clients of a relay; --dns and
--ip name the hosts. Files that exist are replaced.`,
		Example: `  postern pki issue relay1 --role relay-mx,relay-proxy --out relay1/node
  postern pki issue store1a --role backend --out store1a/node
  postern pki issue mail --public --dns mail.example.com --out relay1/public`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			req := tlsconf.Request{Node: args[0], DNSNames: names, Lifetime: life}
			for _, r := range roles {
				req.Roles = append(req.Roles, tlsconf.Role(r))
			}
			for _, s := range ips {
				ip := net.ParseIP(s)
				if ip == nil {
					return usagef("--ip %q is no address", s)
				}
				req.IPs = append(req.IPs, ip)
			}
			switch {
			case public == (len(roles) > 0):
				return usagef("pki issue: give --role, or --public for a certificate without one")
			case public && len(names)+len(ips) == 0:
				return usagef("pki issue --public: name the hosts with --dns or --ip")
			case life < 0:
				return usagef("--lifetime %v: want more than 0", life)
			}
			ca, err := tlsconf.OpenCA(*dir)
			if err != nil {
				return couldNotRun{fmt.Errorf("CA in %s: %w", *dir, err)}
			}
			if out == "" {
				out = args[0]
			}
			cert, err := ca.Issue(out, req, time.Now())
			if err != nil {
				return err
			}
			return a.emitCerts(describeCert(out+".pem", out+"-key.pem", cert))
		},
	}
	f := c.Flags()
	f.StringSliceVar(&roles, "role", nil, "roles: relay-mx, relay-proxy, backend, witness, admin")
	f.BoolVar(&public, "public", false, "no role: for clients and the Internet")
	f.StringSliceVar(&names, "dns", nil, "host names")
	f.StringSliceVar(&ips, "ip", nil, "addresses")
	f.StringVar(&out, "out", "", "write OUT.pem and OUT-key.pem (default: NODE)")
	f.DurationVar(&life, "lifetime", 0, "how long it is good (default 397 days)")
	var all []string
	for _, r := range tlsconf.Roles {
		all = append(all, string(r))
	}
	_ = c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(all, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) pkiRenewCmd(dir *string) *cobra.Command {
	var within time.Duration
	c := &cobra.Command{
		Use:   "renew FILE...",
		Short: "Make certificates again, with new keys",
		Long: `renew makes certificates again for the same names and roles, with a new key and
the same length of life. FILE is the certificate; its key is beside it, with
-key before .pem. Running nodes notice new files by themselves.`,
		Example: `  postern pki renew --ca-dir /root/postern-ca relay1/node.pem
  postern pki renew --within 720h */node.pem`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ca, err := tlsconf.OpenCA(*dir)
			if err != nil {
				return couldNotRun{fmt.Errorf("CA in %s: %w", *dir, err)}
			}
			certs := []certificate{}
			for _, file := range args {
				prefix, ok := strings.CutSuffix(file, ".pem")
				if !ok {
					return usagef("%s: want a file that ends in .pem", file)
				}
				if within > 0 {
					if old, err := tlsconf.ReadCert(file); err == nil && time.Until(old.NotAfter) > within {
						continue
					}
				}
				cert, err := ca.Renew(prefix, time.Now())
				if err != nil {
					return err
				}
				certs = append(certs, describeCert(file, prefix+"-key.pem", cert))
			}
			return a.emitCerts(certs...)
		},
	}
	c.Flags().DurationVar(&within, "within", 0, "only those that end within this time (default: all)")
	return c
}

func (a *app) pkiShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE...",
		Short:   "Show what certificates say",
		Example: `  postern pki show pki/ca.pem relay1/node.pem`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var certs []certificate
			for _, file := range args {
				cert, err := tlsconf.ReadCert(file)
				if err != nil {
					return err
				}
				certs = append(certs, describeCert(file, "", cert))
			}
			return a.emitCerts(certs...)
		},
	}
}

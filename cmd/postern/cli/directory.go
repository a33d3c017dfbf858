package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// directoryFlags say which directory, who asks it and how it is laid out.
type directoryFlags struct {
	dir, conf                        string
	urls                             []string
	base, bindDN, password, passFile string
	startTLS                         bool
	ca                               string
	timeout                          time.Duration
	schema, dcRoot                   string
	rename, hosted, pairs            []string
	audit, hash                      string
	dryRun                           bool
	faulty                           bool // see edit.Config

	relay  *config.Directory // of --config
	opened ldap.Config       // what open made of them
}

// Variables of the environment that stand in for flags.
const (
	envURL      = "POSTERN_DIRECTORY_URL"
	envBase     = "POSTERN_DIRECTORY_BASE"
	envBindDN   = "POSTERN_DIRECTORY_BIND_DN"
	envPassword = "POSTERN_DIRECTORY_PASSWORD"
	envAudit    = "POSTERN_DIRECTORY_AUDIT"
)

func (a *app) directoryCmd() *cobra.Command {
	d := &directoryFlags{}
	c := group("directory", "Look at and change domains, users and groups, and check the directory",
		`directory works on the LDAP directory that relays read: it adds, changes, shows
and deletes domains, users and groups, one by one or from files, and finds what
is wrong in it.

Which directory: --dir DIR for that of a development cluster; --config FILE for
that of a relay's configuration; or --url, --base and --bind-dn, or the
environment (`+strings.Join([]string{envURL, envBase, envBindDN}, ", ")+`).
The password of --bind-dn comes from --bind-password-file or `+envPassword+`.

What is written is read first as relays would read it. An entry that could not
receive mail, or an address that somebody has already, is refused. Every change
is a line of JSON in the audit log, without passwords.`,
		a.directoryKindCmd(d, edit.Domain), a.directoryKindCmd(d, edit.User), a.directoryKindCmd(d, edit.Group),
		a.directoryImportCmd(d), a.directoryExportCmd(d), a.directoryLintCmd(d), a.directoryFlushCmd(d),
		a.directoryQuotaCmd(d), a.directoryPurgeCmd(d), a.directoryMigrateCmd(d))
	f := c.PersistentFlags()
	f.StringVar(&d.dir, "dir", "", "folder of a development cluster")
	f.StringVar(&d.conf, "config", "", "configuration file of a relay, for its directory")
	f.StringSliceVar(&d.urls, "url", nil, "LDAP servers: ldap://, ldaps:// or ldapi:// URLs; the first takes the changes")
	f.StringVar(&d.base, "base", "", "name below which everything is")
	f.StringVar(&d.bindDN, "bind-dn", "", "name to log in as")
	f.StringVar(&d.password, "bind-password", "", "password of --bind-dn; others on this machine can see it")
	f.StringVar(&d.passFile, "bind-password-file", "", "file with the password of --bind-dn")
	f.BoolVar(&d.startTLS, "start-tls", false, "use StartTLS on ldap:// URLs")
	f.StringVar(&d.ca, "ca", "", "CAs of the servers' certificates (default: those of the system)")
	f.DurationVar(&d.timeout, "timeout", 10*time.Second, "time for one question")
	f.StringVar(&d.schema, "schema", "", "names of attributes and classes: "+strings.Join(directory.Presets, ", ")+" (default: sun-schema2)")
	f.StringVar(&d.dcRoot, "dc-root", "", "top of the DC tree, for sun-schema1 and sun-compat")
	f.StringArrayVar(&d.rename, "rename", nil, "another name of an attribute, OLD=NEW; may be given several times")
	f.StringArrayVar(&d.hosted, "hosted", nil, "domain without an entry of its own, NAME=BASE; may be given several times")
	f.StringSliceVar(&d.pairs, "pairs", nil, "names of the pairs (default with --dir: those of the cluster)")
	_ = c.MarkPersistentFlagDirname("dir")
	_ = c.RegisterFlagCompletionFunc("schema", cobra.FixedCompletions(directory.Presets, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// writeFlags are the flags of commands that change something.
func (d *directoryFlags) writeFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&d.audit, "audit", "", `audit log (default with --dir: directory/audit.log in it); "none" keeps none`)
	f.StringVar(&d.hash, "password-hash", "ssha512", "how passwords are stored: "+strings.Join(edit.Hashes, ", "))
	f.BoolVar(&d.dryRun, "dry-run", false, "change nothing, and print what would be changed")
	_ = c.RegisterFlagCompletionFunc("password-hash", cobra.FixedCompletions(edit.Hashes, cobra.ShellCompDirectiveNoFileComp))
}

// complete takes what flags leave open from the cluster, the configuration and
// the environment.
func (d *directoryFlags) complete(cfg *ldap.Config) error {
	sources := 0
	for _, given := range []bool{d.dir != "", d.conf != "", len(d.urls) > 0} {
		if given {
			sources++
		}
	}
	if sources > 1 {
		return usagef("give one of --dir, --config and --url")
	}
	cfg.Servers, cfg.Base, cfg.BindDN, cfg.Password, cfg.StartTLS = d.urls, d.base, d.bindDN, d.password, d.startTLS
	ca := d.ca
	switch {
	case d.dir != "":
		file, err := clusterfile.Read(d.dir)
		if err != nil {
			return couldNotRun{fmt.Errorf("no running development cluster in %s: %w", d.dir, err)}
		}
		cfg.Servers, cfg.DefaultDomain = []string{file.Directory.URL}, file.Domain
		set(&cfg.Base, file.Directory.Base)
		if cfg.BindDN == "" {
			cfg.BindDN = file.Directory.BindDN
			set(&cfg.Password, file.Directory.Password)
		}
		if len(d.pairs) == 0 {
			for _, p := range file.Pairs {
				d.pairs = append(d.pairs, p.Name)
			}
		}
		set(&d.audit, filepath.Join(d.dir, "directory", "audit.log"))
	case d.conf != "":
		relay, err := config.Load[config.Relay](d.conf, nil)
		if err != nil {
			return couldNotRun{err}
		}
		r := &relay.Directory
		d.relay = r
		cfg.Uplevel, cfg.Vanity, cfg.LookupURLs, cfg.LoginSeparators = r.Uplevel, r.VanityDomains, r.LookupURLs, r.LoginSeparators
		cfg.Servers, cfg.DefaultDomain, cfg.StartTLS = r.URLs, r.DefaultDomain, d.startTLS || r.StartTLS
		set(&cfg.Base, r.Base)
		set(&ca, r.CA)
		if cfg.BindDN == "" {
			cfg.BindDN = r.BindDN
			secret, err := config.SecretOf(r.Password, r.PasswordFile)
			if err != nil {
				return couldNotRun{err}
			}
			set(&cfg.Password, secret.Reveal())
		}
		for _, h := range r.Domains {
			set(&h.Base, r.Base)
			cfg.Domains = append(cfg.Domains, ldap.Domain(h))
		}
	case len(cfg.Servers) == 0:
		cfg.Servers = strings.Fields(os.Getenv(envURL))
	}
	set(&cfg.Base, os.Getenv(envBase))
	set(&cfg.BindDN, os.Getenv(envBindDN))
	if err := d.secret(cfg); err != nil {
		return err
	}
	if len(cfg.Servers) == 0 {
		return usagef("name the directory by --dir, --config or --url")
	}
	return trust(cfg, ca)
}

// secret finds the password to log in with.
func (d *directoryFlags) secret(cfg *ldap.Config) error {
	if d.passFile != "" {
		text, err := os.ReadFile(d.passFile)
		if err != nil {
			return couldNotRun{err}
		}
		cfg.Password = trimLine(string(text))
	}
	set(&cfg.Password, os.Getenv(envPassword))
	return nil
}

func trust(cfg *ldap.Config, ca string) error {
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if ca == "" {
		return nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return couldNotRun{err}
	}
	cfg.TLS.RootCAs = x509.NewCertPool()
	if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
		return couldNotRun{fmt.Errorf("%s holds no certificate", ca)}
	}
	return nil
}

// set gives *p a value when it has none.
func set(p *string, v string) {
	if *p == "" {
		*p = v
	}
}

// open connects to the directory that the flags name.
func (d *directoryFlags) open(ctx context.Context) (*ldap.Directory, error) {
	cfg := ldap.Config{Timeout: d.timeout, ConnectTimeout: d.timeout, DCRoot: d.dcRoot, Log: slog.New(slog.DiscardHandler)}
	if err := d.complete(&cfg); err != nil {
		return nil, err
	}
	var err error
	if cfg.Schema, err = d.names(); err != nil {
		return nil, couldNotRun{err}
	}
	if d.relay != nil {
		set(&cfg.DCRoot, d.relay.DCRoot)
	}
	for _, h := range d.hosted {
		name, base, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return nil, usagef("--hosted %q: want NAME=BASE", h)
		}
		set(&base, cfg.Base)
		cfg.Domains = append(cfg.Domains, ldap.Domain{Name: name, Base: base})
	}
	if cfg.Base == "" && len(cfg.Domains) == 0 {
		return nil, usagef("name the top of the tree by --base")
	}
	dir, err := ldap.New(cfg)
	if err != nil {
		return nil, couldNotRun{err}
	}
	if err := dir.Ready(ctx); err != nil {
		dir.Close()
		return nil, couldNotRun{err}
	}
	d.bindDN, d.opened = cfg.BindDN, cfg
	return dir, nil
}

// names are the attributes and classes: those of the relay's configuration,
// changed by the flags.
func (d *directoryFlags) names() (directory.Schema, error) {
	r := d.relay
	if r == nil {
		r = &config.Directory{}
	}
	preset := d.schema
	set(&preset, r.Schema)
	s, err := directory.Preset(preset)
	if err == nil && len(r.ClassTags) > 0 {
		err = s.SetTags(r.ClassTags...)
	}
	if err == nil {
		err = s.Rename(append(slices.Clone(r.Attributes), d.rename...)...)
	}
	if err == nil && len(r.UserClasses) > 0 {
		s.UserClasses, err = directory.ParseClasses(r.UserClasses)
	}
	if err == nil && len(r.GroupClasses) > 0 {
		s.GroupClasses, err = directory.ParseClasses(r.GroupClasses)
	}
	s.SetSubaddress(r.Subaddress, r.SubaddressSeparator)
	s.DCFilter, s.OrganizationFilter = r.DomainFilterSchema1, r.DomainFilterSchema2
	return s, err
}

// pair is the function that knows the pairs, nil when nobody named them.
func (d *directoryFlags) pair() func(string) (string, bool) {
	if len(d.pairs) == 0 {
		return nil
	}
	return expand.Pairs(d.pairs...)
}

// withDirectory runs f on the directory that the flags name.
func (a *app) withDirectory(d *directoryFlags, f func(ctx context.Context, dir *ldap.Directory, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		dir, err := d.open(c.Context())
		if err != nil {
			return err
		}
		defer dir.Close()
		err = f(c.Context(), dir, args)
		if errors.Is(err, edit.ErrBadRequest) || errors.Is(err, directory.ErrUnavailable) {
			return couldNotRun{err}
		}
		return err
	}
}

// withEditor runs f with an editor of the directory. write says that something
// is to be changed, and so to be logged.
func (a *app) withEditor(d *directoryFlags, write bool, f func(ctx context.Context, ed *edit.Editor, args []string) error) func(*cobra.Command, []string) error {
	return a.withDirectory(d, func(ctx context.Context, dir *ldap.Directory, args []string) (err error) {
		cfg := edit.Config{Directory: dir, Pair: d.pair(), Options: expand.Options, Access: login.CheckFilter, DryRun: d.dryRun, Faulty: d.faulty}
		if write {
			if cfg.Hash, err = edit.HashBy(d.hash); err != nil {
				return err
			}
			if cfg.Audit, err = d.log(); err != nil {
				return err
			}
			if cfg.Audit != nil {
				defer func() { err = errors.Join(err, cfg.Audit.Close()) }()
			}
		}
		ed, err := edit.New(cfg)
		if err != nil {
			return err
		}
		return f(ctx, ed, args)
	})
}

// log opens the audit log.
func (d *directoryFlags) log() (*edit.Audit, error) {
	set(&d.audit, os.Getenv(envAudit))
	switch {
	case d.dryRun || d.audit == "none":
		return nil, nil
	case d.audit == "":
		return nil, usagef(`name the audit log by --audit FILE, or --audit none to keep none`)
	}
	log, err := edit.OpenAudit(d.audit, operator(), d.bindDN)
	if err != nil {
		return nil, couldNotRun{err}
	}
	return log, nil
}

// operator is who runs the program, and for whom by sudo.
func operator() string {
	name := "uid " + fmt.Sprint(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if sudo := os.Getenv("SUDO_USER"); sudo != "" && sudo != name {
		name += " (" + sudo + ")"
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// attributeMap is raw for JSON, without secrets.
func attributeMap(s *directory.Schema, raw directory.Attributes) map[string][]string {
	out := make(map[string][]string, len(raw))
	for _, at := range raw {
		out[at.Name] = visible(s, at)
	}
	return out
}

func visible(s *directory.Schema, at directory.Attribute) []string {
	if edit.Secret(s, at.Name) || strings.EqualFold(at.Name, "mgrpAuthPassword") {
		return []string{"***"}
	}
	return at.Values
}

// readPassword reads one line of standard input.
func readPassword(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, 4096))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", usagef("no password on standard input")
	}
	return line, nil
}

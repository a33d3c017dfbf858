package dev

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
)

// socketName is the admin socket in a node's folder.
const socketName = "admin.sock"

// describe is cluster.json; pid tells the process of a node.
func (l *layout) describe(dir string, o *Options, pid func(name string) int) *clusterfile.File {
	f := &clusterfile.File{
		Version: clusterfile.Version, Domain: l.Domains[0], CA: filepath.Join(dir, caDir, "ca.pem"), DNS: l.DNS,
		Directory: clusterfile.Directory{URL: "ldap://" + l.LDAP, TLSURL: "ldaps://" + l.LDAPS, Base: l.Base, BindDN: l.RootDN, Password: l.RootPass},
		Admin:     clusterfile.AdminCert{Cert: filepath.Join(dir, adminDir, "admin.pem"), Key: filepath.Join(dir, adminDir, "admin-key.pem")},
		Users:     append([]clusterfile.User{}, l.Users...),
		Lists:     append([]clusterfile.List{}, l.Lists...),
	}
	if o.Directory != "" {
		f.Directory = clusterfile.Directory{URL: o.Directory, Base: l.Base, BindDN: o.BindDN, Password: o.BindPassword}
	}
	for _, n := range l.of(relayTier) {
		a := n.Addr
		var public, dns string
		if o.Responder {
			public, dns = l.public(n)
		}
		f.Relays = append(f.Relays, clusterfile.Relay{
			Public: public, DNS: dns,
			Name: n.Name, PID: pid(n.Name), SMTP: a["smtp"], Submission: a["submission"], Submissions: a["submissions"],
			IMAP: a["imap"], IMAPS: a["imaps"], POP3: a["pop3"], POP3S: a["pop3s"], Admin: socket(dir, n),
			AdminTLS: a["admin"], Metrics: a["metrics"], Gossip: a["gossip"], Dir: filepath.Join(dir, n.Name),
		})
	}
	for _, pair := range l.pairNames() {
		p := clusterfile.Pair{Name: pair}
		for _, n := range l.voters(pair) {
			a := n.Addr
			c := clusterfile.Node{
				Name: n.Name, PID: pid(n.Name), Role: clusterfile.RoleWitness, Raft: a["raft"], Admin: socket(dir, n),
				AdminTLS: a["admin"], Metrics: a["metrics"], Gossip: a["gossip"], Dir: filepath.Join(dir, n.Name),
			}
			if n.Tier == backendTier {
				c.Role = clusterfile.RoleData
				c.LMTPTLS, c.IMAPTLS, c.POP3TLS = a["lmtp"], a["imap"], a["pop3"]
				if o.BenchPorts {
					c.LMTP, c.IMAP = a["bench_lmtp"], a["bench_imap"]
				}
			}
			p.Nodes = append(p.Nodes, c)
		}
		f.Pairs = append(f.Pairs, p)
	}
	return f
}

func socket(dir string, n *node) string { return filepath.Join(dir, n.Name, socketName) }

// greet tells a person what runs and what to try.
func greet(w io.Writer, f *clusterfile.File, dir string, serving map[string]string) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nPostern development cluster, domain %s, in %s\n\n", f.Domain, dir)
	for _, r := range f.Relays {
		fmt.Fprintf(&b, "  %-9s smtp %s  submission %s (STARTTLS) %s (TLS)\n", r.Name, r.SMTP, r.Submission, r.Submissions)
		fmt.Fprintf(&b, "  %-9s imap %s  imaps %s  pop3 %s  pop3s %s\n", "", r.IMAP, r.IMAPS, r.POP3, r.POP3S)
	}
	for _, p := range f.Pairs {
		fmt.Fprintf(&b, "  %-9s", p.Name)
		for _, n := range p.Nodes {
			switch {
			case n.Name == serving[p.Name]:
				fmt.Fprintf(&b, " %s (serving)", n.Name)
			case n.Role == clusterfile.RoleWitness:
				fmt.Fprintf(&b, " %s (witness)", n.Name)
			default:
				fmt.Fprintf(&b, " %s", n.Name)
			}
		}
		b.WriteByte('\n')
	}
	if f.Directory.TLSURL == "" {
		fmt.Fprintf(&b, "  %-9s %s  base %s\n", "LDAP", f.Directory.URL, f.Directory.Base)
	} else {
		fmt.Fprintf(&b, "  %-9s %s (STARTTLS) %s (TLS)  base %s\n", "LDAP", f.Directory.URL, f.Directory.TLSURL, f.Directory.Base)
	}
	fmt.Fprintf(&b, "  %-9s %s\n", "DNS", f.DNS)
	fmt.Fprintf(&b, "  %-9s %s\n", "CA", f.CA)
	if len(f.Users) > 0 && len(f.Relays) > 0 {
		u, r := f.Users[0], f.Relays[0]
		fmt.Fprintf(&b, "  %-9s %s  password %s  address %s", "login", u.Login, u.Password, u.Address)
		if more := len(f.Users) - 1; more > 0 {
			fmt.Fprintf(&b, "  (and %d more in %s)", more, clusterfile.Name)
		}
		fmt.Fprintf(&b, "\n\nTry:\n\n")
		fmt.Fprintf(&b, "  printf 'Subject: hello\\r\\n\\r\\nfirst message\\r\\n' | curl -sS -T - --url smtp://%s --mail-from you@example.net --mail-rcpt %s\n", r.SMTP, u.Address)
		fmt.Fprintf(&b, "  curl -sS --cacert %s -u %s:%s 'imaps://%s/INBOX;MAILINDEX=1'\n", f.CA, u.Login, u.Password, r.IMAPS)
		fmt.Fprintf(&b, "  postern trace --dir %s %s\n", dir, u.Address)
	} else {
		fmt.Fprintf(&b, "\nTry:\n\n  postern status --dir %s\n", dir)
	}
	fmt.Fprintf(&b, "\n^C ends it.\n")
	_, _ = io.WriteString(w, b.String()) // a terminal that is gone is no reason to stop
}

package cli

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/bench"
	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/cmd/postern/table"
)

// benchFlags are the options of `bench`.
type benchFlags struct {
	dir            string
	smtp, imaps    []string
	ca, serverName string
	users          string
	yes            bool
	p              bench.Profile
}

func (a *app) benchCmd() *cobra.Command {
	fl := benchFlags{p: bench.Default()}
	c := &cobra.Command{
		Use:   "bench",
		Short: "Put a known load on a running cluster and measure it",
		Long: `bench sends mail at a given rate through every relay in turn, while IMAP sessions
are open and ask for news, and prints what users would notice: how many messages
and polls were answered, and in what time, as percentiles. With --dir it also
prints what each node has used.

Times count from when something was due, so that a cluster that stalls shows it.
With --deliveries 0 there is no rate: each of --senders sends its next message
when the one before is answered, which finds out how many the cluster takes.

The cluster is a development cluster (--dir), or --smtp, --imaps and --users with
a line of login, password and address for each user. The mail stays in their
mailboxes: name users who are there for it. Relays that are not on this machine
need --yes.

The load ends after --for, on ^C, when --max-bytes are sent, and when more than
--max-errors of what was asked for failed.

Exit status: 0 measured; 1 the load ended early; 2 it did not begin.`,
		Example: `  postern bench --dir ~/mail --deliveries 200 --sessions 500 --poll 5s --for 1m
  postern bench --dir ~/mail --deliveries 0 --senders 64 --sessions 0
  postern bench --smtp relay1.example.com:25 --imaps relay1.example.com:993 --users load.users --yes --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.bench(c, &fl) },
	}
	f := c.Flags()
	f.StringVar(&fl.dir, "dir", "", "folder of a development cluster")
	f.StringSliceVar(&fl.smtp, "smtp", nil, "MX port of a relay, host:port; more than one with commas")
	f.StringSliceVar(&fl.imaps, "imaps", nil, "IMAP port of a relay, TLS from the first octet, host:port; more than one with commas")
	f.StringVar(&fl.ca, "ca", "", "CA of the certificate for --imaps (default: those of the system)")
	f.StringVar(&fl.serverName, "server-name", "", "name in the certificate for --imaps (default: the host of each)")
	f.StringVar(&fl.users, "users", "", "file with login, password and address of a user on each line")
	f.BoolVar(&fl.yes, "yes", false, "load relays that are not on this machine")
	f.Float64Var(&fl.p.Deliveries, "deliveries", fl.p.Deliveries, "messages a second; 0: as fast as they are answered, -1: none")
	f.IntVar(&fl.p.Senders, "senders", fl.p.Senders, "SMTP connections that are kept open")
	f.IntVar(&fl.p.Size, "size", fl.p.Size, "octets of a message")
	f.IntVar(&fl.p.Recipients, "recipients", fl.p.Recipients, "recipients of a message")
	f.IntVar(&fl.p.Sessions, "sessions", fl.p.Sessions, "IMAP sessions that are open at the same time")
	f.DurationVar(&fl.p.Poll, "poll", fl.p.Poll, "time between two polls of a session; 0: they do nothing")
	f.BoolVar(&fl.p.Read, "read", fl.p.Read, "fetch the newest message when a poll finds one")
	f.DurationVar(&fl.p.For, "for", fl.p.For, "how long the load lasts")
	f.Int64Var(&fl.p.MaxBytes, "max-bytes", fl.p.MaxBytes, "octets that may be sent")
	f.Float64Var(&fl.p.MaxErrors, "max-errors", fl.p.MaxErrors, "share of what is asked for that may fail")
	f.DurationVar(&fl.p.Timeout, "timeout", fl.p.Timeout, "time that an answer may take")
	c.MarkFlagsMutuallyExclusive("dir", "smtp")
	c.MarkFlagsMutuallyExclusive("dir", "imaps")
	c.MarkFlagsMutuallyExclusive("dir", "users")
	_ = c.MarkFlagDirname("dir")
	_ = c.MarkFlagFilename("users")
	_ = c.MarkFlagFilename("ca", "pem")
	return c
}

func (a *app) bench(c *cobra.Command, fl *benchFlags) error {
	target, usage, err := fl.target()
	if err != nil {
		return couldNotRun{err}
	}
	res, err := bench.Run(c.Context(), fl.p, *target, usage)
	if err != nil {
		return couldNotRun{err}
	}
	if err := a.emit(res, func(w io.Writer) error { return printBench(w, res) }); err != nil {
		return err
	}
	switch {
	case res.Ended:
		return errors.New("the load ended early: " + res.Error)
	case res.Error != "":
		a.warn("some of it failed, first: %s", res.Error)
	}
	return nil
}

// target finds the cluster, and how to look at its processes.
func (fl *benchFlags) target() (*bench.Target, func() []bench.Used, error) {
	if fl.dir != "" {
		return benchDev(fl.dir)
	}
	if fl.users == "" || len(fl.smtp)+len(fl.imaps) == 0 {
		return nil, nil, errors.New("name the cluster: --dir DIR, or --smtp and --imaps with --users FILE")
	}
	f, err := os.Open(fl.users)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	t := new(bench.Target)
	if t.Users, err = bench.ReadUsers(f); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", fl.users, err)
	}
	for _, list := range []struct {
		addrs []string
		to    *[]bench.Door
	}{{fl.smtp, &t.SMTP}, {fl.imaps, &t.IMAPS}} {
		for _, addr := range list.addrs {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, nil, err
			}
			if ip := net.ParseIP(host); !fl.yes && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
				return nil, nil, fmt.Errorf("%s is not on this machine: --yes to load it", addr)
			}
			*list.to = append(*list.to, bench.Door{Name: addr, Addr: addr})
		}
	}
	t.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if fl.ca != "" {
		if t.TLS, err = trustIn(fl.ca); err != nil {
			return nil, nil, err
		}
	}
	t.TLS.ServerName = fl.serverName
	return t, nil, nil
}

// benchDev is a development cluster.
func benchDev(dir string) (*bench.Target, func() []bench.Used, error) {
	file, err := clusterfile.Read(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: no running development cluster: %w", dir, err)
	}
	t := new(bench.Target)
	if t.TLS, err = trustIn(file.CA); err != nil {
		return nil, nil, err
	}
	var nodes []bench.Used
	for _, r := range file.Relays {
		t.SMTP = append(t.SMTP, bench.Door{Name: r.Name, Addr: r.SMTP})
		t.IMAPS = append(t.IMAPS, bench.Door{Name: r.Name, Addr: r.IMAPS})
		nodes = append(nodes, bench.Used{Name: r.Name, Role: "relay", PID: r.PID})
	}
	for _, p := range file.Pairs {
		for _, n := range p.Nodes {
			nodes = append(nodes, bench.Used{Name: n.Name, Role: n.Role, PID: n.PID})
		}
	}
	for _, u := range file.Users {
		t.Users = append(t.Users, bench.User{Login: u.Login, Password: u.Password, Address: u.Address})
	}
	return t, func() []bench.Used { return bench.Processes(nodes) }, nil
}

func printBench(w io.Writer, r *bench.Result) error {
	t := table.New("", ">asked", ">done", ">failed", ">a second", ">p50 ms", ">p90", ">p99", ">p99.9", ">max")
	for _, row := range []struct {
		name string
		c    *bench.Count
	}{{"deliveries", &r.Deliveries}, {"logins", &r.Logins}, {"polls", &r.Polls}, {"fetches", &r.Fetches}} {
		c, q := row.c, row.c.Times
		rate := fmt.Sprintf("%.1f", c.Rate)
		if row.name == "logins" { // before the time that is measured
			rate = "-"
		}
		t.Row(row.name, c.Asked, c.Done, c.Failed, rate, q.P50, q.P90, q.P99, q.P999, q.Max)
	}
	if err := t.Print(w); err != nil || len(r.Nodes) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	n := table.New("node", "role", ">cpu", ">cores", ">memory")
	for _, u := range r.Nodes {
		n.Row(u.Name, u.Role, time.Duration(u.CPU*float64(time.Second)).Round(10*time.Millisecond), u.Cores, table.Size(u.Memory))
	}
	return n.Print(w)
}

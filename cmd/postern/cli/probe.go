package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/probe"
	"github.com/postern-mail/postern/cmd/postern/table"
)

// maxReport bounds what one vantage point may answer.
const maxReport = 256 << 20

// probing is the flags of probe.
type probing struct {
	matrix, enter string
	from          []string
	ports         string
	resets        bool
	o             probe.Options
}

func (a *app) probeCmd() *cobra.Command {
	p := new(probing)
	c := &cobra.Command{
		Use:   "probe",
		Short: "Compare the network with the ports matrix",
		Long: `probe tries every port of every host from one place after the other and compares
what it finds with the ports matrix, the output probe of Terraform's topology
module: a port has to be open exactly where the matrix says.

Places are the nodes by name, and internet, management and directory where a host
stands for them ("hosts" in the matrix). --enter is a command that sh -c runs for
each place, named POSTERN_FROM, with this program and its arguments as "$@"; it has
to run them there, and the matrix comes on standard input. Without --enter this
machine is the one place of --from.

Tried are the ports of the matrix, some that are often forgotten, and those of
--ports. A listener that asks for a certificate must not talk to a peer without one.
Of UDP a silent port may be open or not, and is counted apart.

The exit status is 1 when the network is not as the matrix says.`,
		Example: `  postern probe --matrix probe.json --from relay1
  postern probe --matrix probe.json --enter 'ssh "$POSTERN_FROM" "$@"' --from relay1,store1
  postern probe --matrix /var/lib/postern-local/probe.json --enter 'exec nsenter --net="/run/netns/postern-$POSTERN_FROM" "$@"'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.probe(c.Context(), p) },
	}
	f := c.Flags()
	f.StringVar(&p.matrix, "matrix", "", "file with the matrix, JSON; - for standard input")
	f.StringSliceVar(&p.from, "from", nil, "places to try from (default, with --enter: all)")
	f.StringVar(&p.enter, "enter", "", "command that runs this program at the place POSTERN_FROM")
	f.StringVar(&p.ports, "ports", "", "further ports to try, such as 1-1024,5432")
	f.BoolVar(&p.resets, "resets", false, "take a reset for a refusal, where firewalls answer so")
	f.DurationVar(&p.o.Timeout, "timeout", time.Second, "time that a port has to answer")
	f.IntVar(&p.o.Parallel, "parallel", 64, "ports tried at once")
	_ = c.MarkFlagRequired("matrix")
	_ = c.MarkFlagFilename("matrix", "json")
	return c
}

func (a *app) probe(ctx context.Context, p *probing) error {
	if p.o.Timeout <= 0 || p.o.Parallel < 1 || p.o.Parallel > 1000 {
		return usagef("--timeout: want more than 0; --parallel: want 1 to 1000")
	}
	more, err := portList(p.ports)
	if err != nil {
		return usagef("--ports: %w", err)
	}
	text, err := a.readMatrix(p.matrix)
	if err != nil {
		return couldNotRun{err}
	}
	m, err := probe.Parse(text)
	if err != nil {
		return couldNotRun{fmt.Errorf("%s: %w", p.matrix, err)}
	}
	from := p.from
	if len(from) == 0 {
		if p.enter == "" {
			return usagef("name the place of this machine with --from: one of %s; or give --enter", strings.Join(m.Vantages(), ", "))
		}
		from = m.Vantages()
	}
	if p.enter == "" && len(from) > 1 {
		return usagef("this machine is one place: give --enter to go to %s", strings.Join(from, ", "))
	}
	r := &probe.Report{Cluster: m.Cluster, Findings: []probe.Finding{}, Probes: []probe.Probe{}}
	for _, place := range from {
		probes, err := m.Plan(place, more)
		if err != nil {
			return couldNotRun{err}
		}
		if p.enter != "" {
			err = a.probeFrom(ctx, p, place, text, r)
		} else if err = probe.Run(ctx, probes, p.o); err == nil {
			r.Add(place, probes, p.resets)
		}
		if err != nil {
			return couldNotRun{fmt.Errorf("from %s: %w", place, err)}
		}
	}
	if err := a.emit(r, func(w io.Writer) error { return printProbe(w, r) }); err != nil {
		return err
	}
	if n := len(r.Findings); n > 0 {
		return fmt.Errorf("%d ports are not as the matrix says", n)
	}
	return nil
}

func (a *app) readMatrix(name string) ([]byte, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, probe.MaxFile+1))
}

// probeFrom runs this program at a place and takes in its report.
func (a *app) probeFrom(ctx context.Context, p *probing, place string, matrix []byte, r *probe.Report) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{
		"-c", p.enter, "sh", self, "probe", "--matrix", "-", "--from", place, "--output", outJSON,
		"--timeout", p.o.Timeout.String(), "--parallel", strconv.Itoa(p.o.Parallel),
	}
	if p.ports != "" {
		args = append(args, "--ports", p.ports)
	}
	if p.resets {
		args = append(args, "--resets")
	}
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Env = append(os.Environ(), "POSTERN_FROM="+place)
	cmd.Stdin = bytes.NewReader(matrix)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = 10 * time.Second
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	one := new(probe.Report)
	bad := json.NewDecoder(io.LimitReader(pipe, maxReport)).Decode(one)
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == ExitFailed && bad == nil && len(one.Findings) > 0:
	case err != nil:
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	case bad != nil:
		return fmt.Errorf("its report cannot be read: %w", bad)
	}
	if !slices.Equal(one.From, []string{place}) {
		return fmt.Errorf("the report is from %q", one.From)
	}
	r.Merge(one)
	return nil
}

// portList reads ports and ranges: 1-1024,5432.
func portList(s string) ([]int, error) {
	var out []int
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, ranged := strings.Cut(part, "-")
		a, err := strconv.ParseUint(low, 10, 16)
		b := a
		if err == nil && ranged {
			b, err = strconv.ParseUint(high, 10, 16)
		}
		if err != nil || a == 0 || b < a {
			return nil, fmt.Errorf("%q is no port and no range of ports from 1 to 65535", part)
		}
		for p := a; p <= b; p++ {
			out = append(out, int(p))
		}
		if len(out) > 1<<17 {
			return nil, errors.New("more ports than there are")
		}
	}
	return out, nil
}

func printProbe(w io.Writer, r *probe.Report) error {
	t := table.New("from", "to", "tcp", "udp")
	for _, l := range r.Lines() {
		t.Row(l.From, l.To, dash(l.TCP), dash(l.UDP))
	}
	if err := t.Print(w); err != nil {
		return err
	}
	for i := range r.Findings {
		fmt.Fprintf(w, "\nNOT AS THE MATRIX SAYS: %s", table.Clean(r.Findings[i].String()))
	}
	_, err := fmt.Fprintf(w, "\n%d open as allowed, %d closed as not allowed, %d not as the matrix says, of %d silent ports (UDP) nothing can be said\n",
		r.Open, r.Closed, len(r.Findings), r.Silent)
	return err
}

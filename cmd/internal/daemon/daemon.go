package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// Program is one daemon.
type Program[T config.Node] struct {
	Name  string // "postern-relay"
	Role  string // relay, backend, witness
	Short string // for --help, one line
	Tiers []*metrics.Tier
	// Common finds what every node is told in T.
	Common func(*T) *config.Common
	// HeapGrowth bounds the growth of the heap between two collections, in octets.
	// Nil, or 0: gc_percent alone says it.
	HeapGrowth func(*T) config.Size
	// Check reads what else the configuration names, for --check. Nil: nothing.
	Check func(*T) error
	// Start is the start-up list. What it starts by Go runs until the stop.
	Start func(ctx context.Context, n *Node[T]) error
	// Create makes what must exist before the first start and returns; it is
	// what --create does. Nil: there is no such flag.
	Create func(c *T, log *slog.Logger) error
}

// Node is a daemon that runs.
type Node[T config.Node] struct {
	Config  *T // as it was at the start
	Live    *config.Live[T]
	Log     *slog.Logger
	TLS     *tlsconf.Store
	Metrics *metrics.Registry
	Admin   *admin.Server
	Routes  *route.Table // filled by gossip

	// StopWithin bounds the stop; 20 s.
	StopWithin time.Duration
	// Self is what gossip is told of this node, every second and after Changed.
	Self func() gossip.Self
	// Format is the level of formats that this node writes; nil: the one before
	// that of its release.
	Format func() uint32
	// Status adds to the answer of the admin API.
	Status func(*admin.NodeStatus)
	// Drain is told to begin or end draining, and may be told the same twice.
	Drain func(ctx context.Context, on bool) error
	// Reload applies a configuration, or refuses it.
	Reload func(old, next *T) error

	program  *Program[T]
	file     string // with the configuration
	common   *config.Common
	gc       collector
	style    *logStyle
	gossip   *gossip.Gossip
	keysMu   sync.Mutex // guards keys and their file
	keys     [][]byte   // of gossip, in use
	started  time.Time
	ready    atomic.Bool
	draining atomic.Bool
	stopping atomic.Bool
	changed  chan struct{} // one token
	checks   []metrics.Check
	stops    []stop
	services sync.WaitGroup
	run      context.Context // of the services
	ended    chan error      // the first service that ended by itself
}

type stop struct {
	name string
	f    func(ctx context.Context) error
}

// Main runs the program and returns its exit status.
func (p Program[T]) Main() int {
	c, file, create, status := p.configure(os.Args[1:], os.Stdout, os.Stderr)
	if c == nil {
		return status
	}
	common := p.Common(c)
	style := new(logStyle)
	log, flush := newLog(os.Stderr, common, style)
	defer flush()
	if create {
		if err := p.Create(c, log); err != nil {
			log.Error("create", "err", err)
			return exitFailed
		}
		return 0
	}
	// The first signal begins the stop, the second one ends the process.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	context.AfterFunc(ctx, cancel)
	n := newNode(&p, c, file, log, style)
	if err := n.main(ctx); err != nil {
		log.Error(p.Name+" ends", "err", err)
		return exitFailed
	}
	log.Info(p.Name + " has stopped")
	return 0
}

func newNode[T config.Node](p *Program[T], c *T, file string, log *slog.Logger, style *logStyle) *Node[T] {
	return &Node[T]{
		Config: c, Live: config.NewLive(file, c), Log: log, Routes: new(route.Table), StopWithin: 20 * time.Second,
		program: p, file: file, common: p.Common(c), style: style, started: time.Now(),
		changed: make(chan struct{}, 1), ended: make(chan error, 1),
	}
}

// configure reads flags and configuration; without a configuration the status
// is the program's.
func (p *Program[T]) configure(args []string, stdout, stderr io.Writer) (c *T, file string, create bool, status int) {
	fs := pflag.NewFlagSet(p.Name, pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.SortFlags = false
	config.AddFlags[T](fs)
	showVersion := fs.Bool("version", false, "print the version and end")
	check := fs.Bool("check", false, "read the configuration, say what is wrong with it and end")
	if p.Create != nil {
		fs.BoolVar(&create, "create", false, "make the directories of the replicas that the configuration names, and end; once, when a pair is made")
	}
	fs.Usage = func() {
		fmt.Fprintf(stderr, "%s: %s\n\nUsage: %s --config FILE [flags]\n\n%s", p.Name, p.Short, p.Name, fs.FlagUsages())
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return nil, "", false, 0
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
		return nil, "", false, exitUsage
	case *showVersion:
		fmt.Fprintln(stdout, p.Name, version.String())
		return nil, "", false, 0
	case fs.NArg() > 0:
		fmt.Fprintf(stderr, "%s: %q: there are no arguments, only flags\n", p.Name, fs.Arg(0))
		return nil, "", false, exitUsage
	}
	file, _ = fs.GetString("config")
	c, err := config.Load[T](file, fs)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
		return nil, "", false, exitUsage
	}
	if *check {
		if p.Check != nil {
			if err := p.Check(c); err != nil {
				fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
				return nil, "", false, exitUsage
			}
		}
		return nil, "", false, 0
	}
	return c, file, create, 0
}

// main is the life of the node.
func (n *Node[T]) main(ctx context.Context) error {
	var err error
	n.gc.set(n.common.Runtime, n.program.heapGrowth(n.Config))
	if err := os.MkdirAll(n.common.Dir, 0o700); err != nil {
		return err
	}
	if n.TLS, err = tlsconf.Load(tlsconf.Files{CertFile: n.common.TLS.Cert, KeyFile: n.common.TLS.Key, CAFile: n.common.TLS.CA}); err != nil {
		return err
	}
	n.Check("certificate", n.certified)
	if id := n.TLS.Identity(); id.Node != n.common.Node || id.Cluster != n.common.Cluster {
		return fmt.Errorf("certificate %s is for node %s of cluster %s, the configuration says %s of %s",
			n.common.TLS.Cert, id.Node, id.Cluster, n.common.Node, n.common.Cluster)
	}
	n.Metrics = metrics.NewRegistry(n.common.Node, version.String(), append(n.program.Tiers, metrics.Every)...)
	if err := n.Metrics.CollectHashicorp(); err != nil {
		return err
	}
	n.Admin = admin.NewServer(n.Log)
	run, cancel := context.WithCancel(context.Background())
	defer cancel()
	n.run = run
	if n.gossip, err = n.newGossip(); err != nil {
		return err
	}
	err = n.program.Start(ctx, n)
	if err == nil {
		err = n.serveAdmin()
	}
	if err != nil {
		cancel()
		if n.gossip != nil { // it listens already, and Run is what closes it
			err = errors.Join(err, n.gossip.Run(run))
		}
		return errors.Join(err, n.shut(cancel))
	}
	n.Go("collector", n.gc.run)
	n.Go("certificates", func(ctx context.Context) error { n.TLS.Watch(ctx, 10*time.Second, n.Log); return nil })
	n.Go("certificate end", func(ctx context.Context) error { watchCertificate(ctx, n.TLS.NotAfter, n.Log); return nil })
	n.Go("hangup", func(ctx context.Context) error { n.hangups(ctx); return nil })
	if n.gossip != nil {
		n.Go("gossip", n.gossip.Run)
		n.Go("announce", func(ctx context.Context) error { n.announce(ctx); return nil })
	}
	n.ready.Store(true)
	n.Log.Info(n.program.Name+" runs", "version", version.String(), "pid", os.Getpid())
	n.tellManager()
	select {
	case <-ctx.Done():
	case err = <-n.ended:
	}
	return errors.Join(err, n.shut(cancel))
}

// tellManager tells the service manager that the node is ready, and from then on
// that it is alive.
func (n *Node[T]) tellManager() {
	notify("READY=1")
	if in, err := fromManager(); err == nil {
		in.unclaimed(n.Log)
	}
	if every := watchdogEvery(os.Getenv); every > 0 {
		n.Go("watchdog", func(ctx context.Context) error {
			watchdog(ctx, every, answersOn(n.common.Admin.Socket), n.Log)
			return nil
		})
	}
}

// shut stops everything in the reverse order of its start.
func (n *Node[T]) shut(cancel context.CancelFunc) error {
	notify("STOPPING=1")
	n.stopping.Store(true)
	n.Changed()
	ctx, done := context.WithTimeout(context.Background(), n.StopWithin)
	defer done()
	var errs []error
	for i := len(n.stops) - 1; i >= 0; i-- {
		s := n.stops[i]
		if err := s.f(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
	}
	cancel()
	waited := make(chan struct{})
	go func() {
		n.services.Wait()
		close(waited)
	}()
	select {
	case <-waited:
	case <-ctx.Done():
		errs = append(errs, errors.New("services did not end in time"))
	}
	return errors.Join(errs...)
}

// Go runs a service until the stop: its context ends when the OnStop list has
// been worked off. A service that returns before that ends the daemon.
func (n *Node[T]) Go(name string, f func(ctx context.Context) error) {
	n.services.Go(func() {
		err := f(n.run)
		if n.run.Err() != nil || n.stopping.Load() {
			if err != nil && !errors.Is(err, context.Canceled) {
				n.Log.Warn("service ended with an error", "service", name, "err", err)
			}
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		select {
		case n.ended <- fmt.Errorf("%s: %w", name, err):
		default:
		}
	})
}

// OnStop adds a step to the shutdown list, which is worked off from the end.
func (n *Node[T]) OnStop(name string, f func(ctx context.Context) error) {
	n.stops = append(n.stops, stop{name, f})
}

// OnClose is OnStop for what is just closed.
func (n *Node[T]) OnClose(name string, c interface{ Close() error }) {
	n.OnStop(name, func(context.Context) error { return c.Close() })
}

// Check adds a condition of being ready.
func (n *Node[T]) Check(name string, ready func(ctx context.Context) error) {
	n.checks = append(n.checks, metrics.Check{Name: name, Ready: ready})
}

// certified returns an error when this node's certificate has ended: nobody
// trusts a new connection of it then.
func (n *Node[T]) certified(context.Context) error {
	if ends := n.TLS.NotAfter(); time.Now().After(ends) {
		return fmt.Errorf("it ended at %s", ends.UTC().Format(time.RFC3339))
	}
	return nil
}

// Changed makes gossip say at once what Self says now.
func (n *Node[T]) Changed() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// Draining reports whether this node takes no new work.
func (n *Node[T]) Draining() bool { return n.draining.Load() || n.stopping.Load() }

// Fatal ends the process now.
func (n *Node[T]) Fatal(err error) { fatal(n.Log, err) }

func fatal(log *slog.Logger, err error) {
	// What takes the log may wait for a disk that hangs.
	time.AfterFunc(time.Second, func() { os.Exit(exitFailed) })
	log.Error("the process must end", "err", err)
	os.Exit(exitFailed)
}

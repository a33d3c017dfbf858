package milter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
)

// OnFailure says what becomes of mail while a filter cannot be asked: it cannot be
// reached, takes too long, ends or does not keep to the protocol.
type OnFailure string

// What can be done.
const (
	Tempfail OnFailure = "tempfail" // 451 4.7.1
	Accept   OnFailure = "accept"   // the session goes on without the filter
	Reject   OnFailure = "reject"   // 550 5.7.1
)

// Config describes a filter. Zero fields but for Name and Address take defaults.
type Config struct {
	Name string
	// Address is where it listens: unix:/path, inet:host:port or inet6:host:port,
	// also with Sendmail's words local: and port@host.
	Address string

	ConnectTimeout time.Duration // 30 s
	CommandTimeout time.Duration // for the answer to each event, 30 s
	MessageTimeout time.Duration // at the end of a message, anew with each sign of life, 300 s
	MessageTotal   time.Duration // for all of a message, whatever signs of life there are, 10 min
	OnFailure      OnFailure     // Tempfail
	MaxReply       int64         // octets that may come back for one message, 100 MB

	Hostname string // our name: macro j
	// Host knows the name of a client's address and whether that name has the
	// address, too; "" is none. Nil knows none.
	Host func(ctx context.Context, addr netip.Addr) (name string, verified bool)

	Dial func(ctx context.Context, network, addr string) (net.Conn, error) // net.Dialer
	Log  *slog.Logger
	Now  func() time.Time // of the waits after failed connections
}

// How long no connection is tried after one that failed.
const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
)

// Filter is the client of one filter. Any number of sessions may run at once.
type Filter struct {
	cfg           Config
	network, addr string
	onFailure     *smtp.Reply // nil: accept

	mu       sync.Mutex // guards the fields below
	failures int        // sessions in a row that did not begin
	next     time.Time  // when one may be tried again
}

var _ policy.Filter = (*Filter)(nil)

// New checks cfg. It does not connect.
func New(cfg Config) (*Filter, error) {
	f := &Filter{}
	if cfg.Name == "" {
		return nil, errors.New("milter: a filter without a name")
	}
	var err error
	if f.network, f.addr, err = parseAddress(cfg.Address); err != nil {
		return nil, fmt.Errorf("milter: filter %s: %w", cfg.Name, err)
	}
	switch cfg.OnFailure {
	case "", Tempfail:
		f.onFailure = replyTempfail
	case Reject:
		f.onFailure = replyReject
	case Accept:
	default:
		return nil, fmt.Errorf("milter: filter %s: no such thing to do on failure: %q", cfg.Name, cfg.OnFailure)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.ConnectTimeout, 30*time.Second)
	def(&cfg.CommandTimeout, 30*time.Second)
	def(&cfg.MessageTimeout, 300*time.Second)
	def(&cfg.MessageTotal, max(10*time.Minute, cfg.MessageTimeout))
	if cfg.MaxReply <= 0 {
		cfg.MaxReply = 100 << 20
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f.cfg = cfg
	return f, nil
}

// parseAddress reads where a filter listens, for net.Dial.
func parseAddress(s string) (network, addr string, err error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "unix", "local":
		if !strings.HasPrefix(rest, "/") {
			return "", "", fmt.Errorf("address %q is no absolute path", s)
		}
		return "unix", rest, nil
	case "inet":
		network = "tcp"
	case "inet6":
		network = "tcp6"
	default:
		return "", "", fmt.Errorf("address %q begins with neither unix nor inet nor inet6", s)
	}
	port, host, at := strings.Cut(rest, "@")
	if at {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	} else if host, port, err = net.SplitHostPort(rest); err != nil {
		return "", "", fmt.Errorf("address %q: %w", s, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", "", fmt.Errorf("address %q has no host or no port", s)
	}
	return network, net.JoinHostPort(host, port), nil
}

// Name is the filter's name.
func (f *Filter) Name() string { return f.cfg.Name }

// Open connects, negotiates and tells the filter of the client.
func (f *Filter) Open(ctx context.Context, c *policy.Client) (policy.Session, error) {
	s := &session{f: f, values: values{}, lists: defaultMacros}
	if !f.mayTry() {
		if f.onFailure == nil {
			s.over, s.broken = true, true
			return s, nil
		}
		f.count("failed")
		return nil, f.onFailure
	}
	err := s.dial(ctx)
	if err == nil {
		err = s.connect(ctx, c)
	} else {
		err = s.fail(ctx, evConnect.name, err)
	}
	if ctx.Err() != context.Canceled { // else nobody knows
		f.tried(!s.broken)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// mayTry reports whether a connection may be tried. After failures only one
// session does at a time: the others would all wait as long as it does.
func (f *Filter) mayTry() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failures == 0 {
		return true
	}
	now := f.cfg.Now()
	if now.Before(f.next) {
		return false
	}
	f.next = now.Add(f.pause())
	return true
}

// pause is how long to wait after so many failures.
func (f *Filter) pause() time.Duration {
	return min(firstPause<<min(max(f.failures-1, 0), 10), maxPause)
}

// tried notes how a session began.
func (f *Filter) tried(well bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if well {
		if f.failures > 0 {
			f.cfg.Log.Info("filter answers again", "filter", f.cfg.Name)
		}
		f.failures = 0
		return
	}
	f.failures++
	f.next = f.cfg.Now().Add(f.pause())
}

// count counts an outcome.
func (f *Filter) count(outcome string) { metrics.MilterRequests.With(f.cfg.Name, outcome).Inc() }

// refused counts a refusal and returns it.
func (f *Filter) refused(r *smtp.Reply) error {
	if r.Temporary() {
		f.count("tempfail")
	} else {
		f.count("reject")
	}
	return r
}

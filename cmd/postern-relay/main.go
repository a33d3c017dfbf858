/*
Command postern-relay is the tier-1 daemon. It accepts mail from the Internet and
from users, asks the directory once who it is for, delivers to the pairs by LMTP
and to other domains by SMTP, keeps what has to wait in its queue, and lets
clients reach their pair by IMAP and POP3.
*/
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/journal"
	"github.com/postern-mail/postern/relay/bounce"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/autoreply"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	"github.com/postern-mail/postern/relay/deliver/reprocess"
	outbound "github.com/postern-mail/postern/relay/deliver/smtp"
	"github.com/postern-mail/postern/relay/deliver/welcome"
	"github.com/postern-mail/postern/relay/dispatcher"
	"github.com/postern-mail/postern/relay/jobctl"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/dns/responder"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/tlsconf"
)

func main() {
	os.Exit(daemon.Program[config.Relay]{
		Name: "postern-relay", Role: "relay",
		Short:  "mail in and out, and the way of clients to their mail",
		Tiers:  []*metrics.Tier{metrics.Relay},
		Common: func(c *config.Relay) *config.Common { return &c.Common },
		Check:  check,
		Start:  start,

		HeapGrowth: func(c *config.Relay) config.Size { return c.HeapGrowth },
	}.Main())
}

// relay is what the start-up list builds, in its order.
type relay struct {
	n           *daemon.Node[config.Relay]
	c           *config.Relay
	record      *journal.Record
	mailLog     *maillog.Log // of record
	queue       *queue.Queue
	in          atomic.Pointer[inside] // what a reload replaces
	pool        *lmtp.Agent            // connections to the pairs
	answers     *autoreply.Agent
	pairs       *welcome.Agent
	acceptor    *transaction.Acceptor
	outside     *outbound.Agent
	bouncer     *bounce.Bouncer
	jobs        *jobctl.Controller
	public      *tlsconf.Public // shown to clients and the Internet
	dispatcher  *dispatcher.Dispatcher
	responder   *responder.Responder // nil: none
	mail        []*mailService
	access      []*accessService
	connections func() int   // of SMTP, open now; nil without a service
	inFlight    atomic.Int64 // octets of messages in memory

	retiring   context.Context // ends at the stop
	endRetired context.CancelFunc
	retired    sync.WaitGroup // directories that are not asked any more
}

// check reads the files with words and tables that the configuration names, and
// what else is only understood at the start.
func check(c *config.Relay) error {
	_, err := schemaOf(&c.Directory)
	if err == nil && c.Directory.NetgroupBase != "" {
		if _, err = ldap.Netgroups(c.Directory.NetgroupBase, c.Directory.NetgroupFilter); err != nil {
			err = fmt.Errorf("directory.netgroup_filter: %w", err)
		}
	}
	if err == nil {
		_, err = refusals(c.Expand.Texts)
	}
	if err == nil {
		_, err = mappings(c.Expand.Mappings)
	}
	if err == nil {
		_, err = noticeTexts(&c.Notices)
	}
	if err == nil {
		_, err = makeFilters(c, nil, nil, nil)
	}
	if err == nil {
		err = journal.Check(c.Tracing)
	}
	return err
}

// start opens what is below first and lets mail in last.
func start(_ context.Context, n *daemon.Node[config.Relay]) error {
	r := &relay{n: n, c: n.Config}
	r.retiring, r.endRetired = context.WithCancel(context.Background())
	for _, step := range []func() error{
		r.openLog, r.openQueue, r.serveDirectory, r.openPublic, r.openInside, r.openPairs, r.openDoor, r.openOutside, r.openJobs,
		r.serveMail, r.serveAccess, r.serveDNS,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	r.operate()
	n.Reload = r.reload
	return nil
}

// has reports whether this relay plays a role.
func (r *relay) has(role string) bool { return slices.Contains(r.c.Roles, role) }

func (r *relay) openLog() (err error) {
	r.record, err = journal.Open(journal.Config{
		Service: "postern-relay", Node: r.c.Node, Journal: r.c.Journal, Tracing: r.c.Tracing, Log: r.n.Log, Observe: count,
	}, r.n.OnClose)
	if err != nil {
		return err
	}
	r.mailLog = r.record.Log
	r.record.Handle(r.n.Admin)
	return nil
}

func (r *relay) openQueue() (err error) {
	q := &r.c.Queue
	r.queue, err = queue.Open(queue.Config{
		Dir: q.Dir, Limits: queueLimits(r.c),
		Free:  func() (int64, error) { return freeOf(q.Dir) },
		Fatal: r.n.Fatal, Log: r.n.Log,
	})
	if err != nil {
		return err
	}
	r.n.OnClose("queue", r.queue)
	return nil
}

// freeOf is the room of the file system that dir is on.
func freeOf(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("room of %s: %w", dir, err)
	}
	return int64(min(st.Bavail*uint64(st.Bsize), math.MaxInt64)), nil //nolint:gosec // bounded
}

// openPairs fills the table of pairs with what the configuration knows, for
// as long as gossip has said nothing.
func (r *relay) openPairs() error {
	r.n.Routes.Assume(staticNodes(r.c))
	var err error
	if r.pool, err = lmtp.New(r.poolConfig(r.now())); err != nil {
		return err
	}
	r.n.OnClose("connections to the pairs", r.pool)
	r.answers, err = autoreply.New(autoreply.Config{Pairs: r.pool, Rules: answerRules(r.c), Log: r.n.Log, Mail: r.mailLog})
	if err != nil {
		return err
	}
	r.pairs, err = welcome.New(welcome.Config{Pairs: r.answers, Log: r.n.Log, Mail: r.mailLog})
	return err
}

// poolConfig is how the pairs are reached.
func (r *relay) poolConfig(in *inside) lmtp.Config {
	c := &in.c.LMTP
	return lmtp.Config{
		Hello: in.c.Hostname, Routes: r.n.Routes, TLS: r.backendTLS(), Moved: r.moved,
		MaxIdle: c.Connections, MaxConns: c.Connections, IdleTime: c.IdleTimeout, MaxRecipients: c.Recipients,
	}
}

func (r *relay) openDoor() (err error) {
	if r.acceptor, err = transaction.New(r.doorConfig(r.now())); err != nil {
		return err
	}
	r.answers.Use(r.acceptor)
	r.pairs.Use(r.acceptor)
	r.n.OnStop("door", func(context.Context) error { r.acceptor.Close(); return nil })
	return nil
}

func (r *relay) openOutside() (err error) {
	if !r.has("outbound") {
		return nil
	}
	cfg, err := outsideConfig(r.now())
	if err != nil {
		return err
	}
	if r.outside, err = outbound.New(cfg); err != nil {
		return err
	}
	r.n.OnClose("connections to other domains", r.outside)
	return nil
}

// outsideConfig is how other domains are reached.
func outsideConfig(in *inside) (outbound.Config, error) {
	o := &in.c.Outbound
	dial, err := dialFrom(o.Source)
	return outbound.Config{
		Hello: in.c.Hostname, Resolver: in.resolver, Port: port(o.Port), RequireTLS: o.RequireTLS,
		SelfNames: []string{in.c.Hostname}, Dial: dial,
	}, err
}

// noticeConfig is how senders are told what became of their mail.
func (r *relay) noticeConfig(in *inside) (bounce.Config, error) {
	texts, err := noticeTexts(&in.c.Notices)
	if err != nil {
		return bounce.Config{}, err
	}
	tables, err := mappings(in.c.Expand.Mappings)
	return bounce.Config{
		Hostname: in.c.Hostname, Origin: in.c.Node, Door: r.acceptor, Lifetime: in.c.Retry.Lifetime,
		Wanted: in.expander.Languages, Language: in.c.Notices.Language, Texts: texts, Tables: tables, Log: r.n.Log, Mail: r.mailLog,
	}, err
}

func (r *relay) openJobs() error {
	notices, err := r.noticeConfig(r.now())
	if err == nil {
		r.bouncer, err = bounce.New(notices)
	}
	if err != nil {
		return err
	}
	again, err := reprocess.New(reprocess.Config{Door: r.acceptor, Expander: expanderNow{r}, Log: r.n.Log})
	if err != nil {
		return err
	}
	agents := map[mail.Channel]deliver.Agent{
		mail.ChannelLMTP:      r.pairs,
		mail.ChannelReprocess: r.answers.Gate(again),
	}
	if r.outside != nil {
		agents[mail.ChannelSMTP] = r.answers.Gate(r.outside)
	}
	rules := jobRules(r.c)
	r.jobs, err = jobctl.New(jobctl.Config{
		Queue: r.queue, Agents: agents, Reporter: r.bouncer,
		Backoff: rules.Backoff, Notices: rules.Notices, Lifetime: rules.Lifetime, Limits: rules.Limits, HoldCheck: rules.HoldCheck,
		OnDelivered: func(c mail.Channel, nextHop string) {
			if c == mail.ChannelLMTP {
				r.acceptor.Answered(nextHop)
			}
		},
		OnHold: expanderNow{r}.OnHold,
		Log:    r.n.Log, Mail: r.mailLog,
	})
	if err != nil {
		return err
	}
	r.queue.OnSubmit(r.jobs.Submitted)
	r.acceptor.OnReady(func(pair string) { r.jobs.Wake(mail.ChannelLMTP, pair) })
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.n.Go("job controller", func(context.Context) error { defer close(done); return r.jobs.Run(run) })
	r.n.OnStop("job controller", func(ctx context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return nil
}

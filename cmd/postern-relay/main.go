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
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/journal"
	"github.com/postern-mail/postern/relay/bounce"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/autoreply"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	"github.com/postern-mail/postern/relay/deliver/reprocess"
	outbound "github.com/postern-mail/postern/relay/deliver/smtp"
	"github.com/postern-mail/postern/relay/deliver/welcome"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/jobctl"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/metrics"
)

func main() {
	os.Exit(daemon.Program[config.Relay]{
		Name: "postern-relay", Role: "relay",
		Short:  "mail in and out, and the way of clients to their mail",
		Tiers:  []*metrics.Tier{metrics.Relay},
		Common: func(c *config.Relay) *config.Common { return &c.Common },
		Check:  check,
		Start:  start,
	}.Main())
}

// relay is what the start-up list builds, in its order.
type relay struct {
	n           *daemon.Node[config.Relay]
	c           *config.Relay
	mailLog     *maillog.Log
	queue       *queue.Queue
	resolver    dns.Resolver
	dir         *lookups
	answers     *autoreply.Agent
	pairs       *welcome.Agent
	expander    *expand.Expander
	acceptor    *transaction.Acceptor
	outside     *outbound.Agent
	jobs        *jobctl.Controller
	sessions    []*proxy.Server
	connections func() int   // of SMTP, open now; nil without a service
	inFlight    atomic.Int64 // octets of messages in memory
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
	return err
}

// start opens what is below first and lets mail in last.
func start(_ context.Context, n *daemon.Node[config.Relay]) error {
	r := &relay{n: n, c: n.Config}
	for _, step := range []func() error{
		r.openLog, r.openQueue, r.serveDirectory, r.openDirectory, r.openPairs, r.openDoor, r.openOutside, r.openJobs,
		r.serveMail, r.serveAccess, r.serveDNS,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	r.operate()
	return nil
}

// has reports whether this relay plays a role.
func (r *relay) has(role string) bool { return slices.Contains(r.c.Roles, role) }

func (r *relay) openLog() (err error) {
	r.mailLog, err = journal.Open(journal.Config{
		Service: "postern-relay", Node: r.c.Node, Journal: r.c.Journal, Tracing: r.c.Tracing, Log: r.n.Log, Observe: count,
	}, r.n.OnClose)
	if err != nil {
		return err
	}
	journal.Handle(r.n.Admin, r.mailLog)
	return nil
}

func (r *relay) openQueue() (err error) {
	q := &r.c.Queue
	r.queue, err = queue.Open(queue.Config{
		Dir: q.Dir, MaxMessages: int64(q.MaxMessages), MaxBytes: int64(q.MaxBytes), MinFree: int64(q.Reserve),
		Fatal: r.n.Fatal, Log: r.n.Log,
	})
	if err != nil {
		return err
	}
	r.n.OnClose("queue", r.queue)
	if r.resolver, err = dns.NewClient(dns.Config{Servers: r.c.DNS.Servers}); err != nil {
		return err
	}
	return nil
}

// openPairs fills the table of pairs with what the configuration knows, for
// as long as gossip has said nothing.
func (r *relay) openPairs() error {
	for _, s := range r.c.Pairs {
		r.n.Routes.Update(static(s))
	}
	agent, err := lmtp.New(lmtp.Config{
		Hello: r.c.Hostname, Routes: r.n.Routes,
		TLS:     r.backendTLS(),
		MaxIdle: r.c.LMTP.Connections, MaxConns: r.c.LMTP.Connections, IdleTime: r.c.LMTP.IdleTimeout, MaxRecipients: r.c.LMTP.Recipients,
	})
	if err != nil {
		return err
	}
	r.n.OnClose("connections to the pairs", agent)
	c := &r.c.Autoreply
	r.answers, err = autoreply.New(autoreply.Config{
		Pairs: agent, PerHour: c.PerHour, MaxContent: int64(c.MaxContent), Spam: c.SpamFields, Log: r.n.Log, Mail: r.mailLog,
	})
	if err != nil {
		return err
	}
	r.pairs, err = welcome.New(welcome.Config{Pairs: r.answers, Log: r.n.Log, Mail: r.mailLog})
	return err
}

func (r *relay) openDoor() error {
	if err := r.openExpander(); err != nil {
		return err
	}
	var err error
	cfg := transaction.Config{
		Hostname: r.c.Hostname, Origin: r.c.Node, Domain: r.c.Directory.DefaultDomain,
		Expander: r.expander, Queue: r.queue, PairDeadline: r.c.Accept.PairDeadline, MaxReceived: r.c.SMTP.MaxReceived,
		MaxOwn: r.c.SMTP.MaxOwnReceived, HoldLoops: r.c.SMTP.HoldLoops,
		Log: r.n.Log, Mail: r.mailLog, Copies: r.copies(),
	}
	if s, err := schemaOf(&r.c.Directory); err == nil && (len(r.c.Expand.GuaranteedChannels) > 0 || s.SenderRecipients != "" || s.SenderMaxBlocks != "") {
		cfg.Submission = r.expander.Submission
	}
	if r.c.Expand.Reverse {
		cfg.Reverse = r.expander.Reverse
	}
	if r.c.Accept.Mode == "through" {
		cfg.Pairs = r.pairs
	}
	if r.acceptor, err = transaction.New(cfg); err != nil {
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
	o := &r.c.Outbound
	r.outside, err = outbound.New(outbound.Config{
		Hello: r.c.Hostname, Resolver: r.resolver, Port: port(o.Port), RequireTLS: o.RequireTLS,
		SelfNames: []string{r.c.Hostname}, Dial: dialFrom(o.Source),
	})
	if err != nil {
		return err
	}
	r.n.OnClose("connections to other domains", r.outside)
	return nil
}

func (r *relay) openJobs() error {
	texts, err := noticeTexts(&r.c.Notices)
	if err != nil {
		return err
	}
	bouncer, err := bounce.New(bounce.Config{
		Hostname: r.c.Hostname, Origin: r.c.Node, Door: r.acceptor, Lifetime: r.c.Retry.Lifetime,
		Wanted: r.expander.Languages, Language: r.c.Notices.Language, Texts: texts, Log: r.n.Log, Mail: r.mailLog,
	})
	if err != nil {
		return err
	}
	again, err := reprocess.New(reprocess.Config{Door: r.acceptor, Expander: r.expander, Log: r.n.Log})
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
	schedule := r.c.Retry.Schedule
	r.jobs, err = jobctl.New(jobctl.Config{
		Queue: r.queue, Agents: agents, Reporter: bouncer,
		Backoff:  map[mail.Priority][]time.Duration{mail.Urgent: schedule, mail.Normal: schedule, mail.NonUrgent: schedule},
		Notices:  r.c.Retry.Warn,
		Lifetime: r.c.Retry.Lifetime,
		Limits: map[mail.Channel]jobctl.Limit{
			mail.ChannelSMTP: {Channel: r.c.Outbound.Concurrency, Destination: r.c.Outbound.PerDestination},
			mail.ChannelLMTP: {Channel: 4 * r.c.LMTP.Connections, Destination: r.c.LMTP.Connections},
		},
		OnDelivered: func(c mail.Channel, nextHop string) {
			if c == mail.ChannelLMTP {
				r.acceptor.Answered(nextHop)
			}
		},
		OnHold: r.onHold(), HoldCheck: r.c.Retry.HoldCheck,
		Log: r.n.Log, Mail: r.mailLog,
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

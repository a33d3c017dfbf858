package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// Bounds of an explanation.
const (
	maxExplained = 5000 // steps, and recipients, that are told
	maxSearches  = 32   // searches told of one question
)

// explain answers what becomes of mail for an address, by the code and the
// cache that live mail uses.
func (r *relay) explain(ctx context.Context, in admin.ExplainRequest) (admin.ExplainResult, error) {
	to, err := mail.ParseAddress(strings.TrimSpace(in.Address), true)
	if err != nil {
		return admin.ExplainResult{}, fmt.Errorf("%w: %w", admin.ErrBadRequest, err)
	}
	env := &mail.Envelope{AuthUser: in.Auth, Size: in.Size, Arrival: in.At}
	if from := strings.Trim(strings.TrimSpace(in.From), "<>"); from != "" {
		if env.ReversePath, err = mail.ParseAddress(from, true); err != nil {
			return admin.ExplainResult{}, fmt.Errorf("%w: sender: %w", admin.ErrBadRequest, err)
		}
	}
	if env.Arrival.IsZero() {
		env.Arrival = time.Now()
	}
	now := r.now()
	t := &telling{ttl: now.c.Directory.CacheTTL, filters: now.optIn(), out: admin.ExplainResult{
		Input: in.Address, From: env.ReversePath.String(), Auth: in.Auth, At: env.Arrival, Node: now.c.Node,
		Recipients: []admin.ExplainRecipient{}, Steps: []admin.ExplainStep{},
	}}
	d := &observed{under: now.dir.cache, tell: t}
	if in.NoCache {
		d.under, t.bare = now.dir.servers, true
	}
	start := time.Now()
	at := env.Arrival
	x := now.expander.With(d, func() time.Time { return at })
	if in.Auth != "" {
		// As in a transaction, before the first recipient.
		var s expand.Submission
		if s, err = x.Submission(ctx, in.Auth); s.Guaranteed {
			env.Guaranteed = true
			t.step(expand.Step{Rule: "14", Attribute: "mailSMTPSubmitChannel", Text: "what " + in.Auth + " submits is guaranteed: quotas do not count"})
		}
		if s.Recipients > 0 || s.Size > 0 {
			t.step(expand.Step{Rule: "5/5", Text: fmt.Sprintf("what %s submits has at most %d recipients and %d octets, 0 is without limit", in.Auth, s.Recipients, s.Size)})
		}
		if err == nil {
			err = s.Admits(in.Size)
		}
	}
	if d.nobody.Load() {
		return admin.ExplainResult{}, fmt.Errorf("%w: nobody has the login %q", admin.ErrBadRequest, in.Auth)
	}
	if err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.result(nil, err)
		return t.out, nil
	}
	live := transaction.Config{Domain: cmp.Or(now.c.Directory.DefaultDomain, now.c.Hostname), Expander: explaining{x, t.step}}
	final, err := live.Final(ctx, env, &mail.Recipient{Address: to}, false)
	if err == nil && to.IsPostmaster() && t.refused() {
		t.step(expand.Step{Address: final[0].Address, Text: "held for the operator: a postmaster is never refused (RFC 5321 4.5.1)"})
	}
	t.unknownFilters(final)
	t.mu.Lock() // a question that was given up may still be under way
	defer t.mu.Unlock()
	t.out.Took = time.Since(start)
	t.result(final, err)
	return t.out, nil
}

// explaining is an expander that tells its steps.
type explaining struct {
	*expand.Expander
	tell func(expand.Step)
}

func (e explaining) Rcpt(ctx context.Context, env *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	return e.Explain(ctx, env, r, e.tell)
}

// telling collects what an expansion does.
type telling struct {
	ttl     time.Duration
	bare    bool // there is no cache between
	filters []transaction.Filter

	mu    sync.Mutex // guards the rest
	depth int
	out   admin.ExplainResult
}

func (t *telling) add(s admin.ExplainStep) {
	if len(t.out.Steps) >= maxExplained {
		t.out.Truncated = true
		return
	}
	t.out.Steps = append(t.out.Steps, s)
}

func (t *telling) step(s expand.Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.depth = s.Depth
	step := admin.ExplainStep{
		Depth: s.Depth, Address: s.Address.String(), DN: s.DN, Rule: s.Rule, Attribute: s.Attribute, Code: s.Code, Text: s.Text,
	}
	if s.Code != 0 {
		step.Enhanced = s.Status.String()
	}
	t.add(step)
}

// refused reports whether the expansion ended with an answer other than yes.
func (t *telling) refused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.out.Steps)
	return n > 0 && t.out.Steps[n-1].Code != 0
}

// unknownFilters tells which filters recipients ask for that this relay does not have.
func (t *telling) unknownFilters(final []mail.Recipient) {
	told := map[string]bool{}
	for i := range final {
		for _, word := range final[i].OptIn {
			if told[word] || slices.ContainsFunc(t.filters, func(f transaction.Filter) bool { return f.Knows(word) }) {
				continue
			}
			told[word] = true
			t.step(expand.Step{Address: final[i].Address, Rule: "5/12", Text: fmt.Sprintf("no filter of this relay is asked for by %q", word)})
		}
	}
}

func (t *telling) result(final []mail.Recipient, err error) {
	t.out.Reply = admin.ExplainReply{Code: 250, Enhanced: "2.1.5", Text: "OK"}
	if err != nil {
		e := mail.AsError("explain", err)
		t.out.Reply = admin.ExplainReply{Code: e.ReplyCode(), Enhanced: e.Status.String(), Text: e.Reply}
	}
	for i := range final {
		f := &final[i]
		if i == maxExplained {
			t.out.Truncated = true
			return
		}
		r := admin.ExplainRecipient{
			Address: f.Address.String(), Channel: string(f.Channel), NextHop: f.NextHop, Mailbox: f.Mailbox, Folder: f.Folder, Store: f.Store,
			Quota: directory.QuotaDefault, Messages: directory.QuotaDefault, MaxSize: f.MaxSize, List: f.ListName,
			Autoreply: f.Autoreply != nil, Via: append([]string{}, f.Via...),
		}
		switch f.Channel {
		case mail.ChannelLMTP:
			r.Pair = f.NextHop
		case mail.ChannelReprocess:
			r.Mailbox = "" // where to go on, which is for the relay only
		}
		for i := range t.filters {
			if t.filters[i].Wants(f) {
				r.Filters = append(r.Filters, t.filters[i].Name())
			}
		}
		if f.Quota != nil {
			r.Quota, r.Messages = f.Quota.Bytes, f.Quota.Messages
		}
		t.out.Recipients = append(t.out.Recipients, r)
	}
}

// observed is a directory whose questions are told.
type observed struct {
	under  directory.Directory
	tell   *telling
	nobody atomic.Bool // a login was asked for that nobody has, or several
}

// ask tells of one question. fetched says when the answer came from a server.
func ask[V any](ctx context.Context, o *observed, question, subject string, f func(context.Context) (V, error), fetched func(V) (time.Time, string)) (V, error) {
	var mu sync.Mutex
	q := &admin.ExplainLookup{Question: question, Subject: subject}
	searches := 0
	over := false
	ctx = ldap.Watch(ctx, func(a ldap.Asked) {
		mu.Lock()
		defer mu.Unlock()
		if searches++; over || searches > maxSearches {
			return
		}
		s := admin.ExplainSearch{Base: a.Base, Scope: a.Scope, Filter: a.Filter, Entries: a.Entries, Took: a.Took}
		if a.Err != nil {
			s.Error = a.Err.Error()
		}
		q.Searches = append(q.Searches, s)
	})
	start := time.Now()
	v, err := f(ctx)
	mu.Lock()
	over = true
	n := searches
	mu.Unlock()
	q.Took = time.Since(start)
	var when time.Time
	switch {
	case err == nil:
		when, q.Answer = fetched(v)
	case errors.Is(err, directory.ErrNotFound):
		q.Answer = "nobody"
	default:
		q.Answer = err.Error()
	}
	if !when.IsZero() {
		q.Age = max(0, start.Sub(when))
	}
	switch {
	case o.tell.bare:
		q.Cache = "off"
	case q.Age > o.tell.ttl && o.tell.ttl > 0:
		q.Cache = "stale"
	case n > 0:
		q.Cache = "miss"
	case when.After(start):
		q.Cache = "shared"
	default:
		q.Cache = "hit"
	}
	o.tell.mu.Lock()
	o.tell.out.Queries += n
	o.tell.add(admin.ExplainStep{Depth: o.tell.depth, Text: "asked the directory for the " + question + " " + subject, Query: q})
	o.tell.mu.Unlock()
	return v, err
}

func (o *observed) Domain(ctx context.Context, name string) (*directory.Domain, error) {
	return ask(ctx, o, "domain", name, func(ctx context.Context) (*directory.Domain, error) { return o.under.Domain(ctx, name) },
		func(d *directory.Domain) (time.Time, string) { return d.Fetched, d.DN })
}

func (o *observed) Lookup(ctx context.Context, d *directory.Domain, a mail.Address) (*directory.Answer, error) {
	return ask(ctx, o, "address", a.String(), func(ctx context.Context) (*directory.Answer, error) { return o.under.Lookup(ctx, d, a) },
		func(ans *directory.Answer) (time.Time, string) { return entries(ans.Entries) })
}

func (o *observed) Login(ctx context.Context, login string) (*directory.Entry, error) {
	e, err := ask(ctx, o, "login", login, func(ctx context.Context) (*directory.Entry, error) { return o.under.Login(ctx, login) }, entry)
	if errors.Is(err, directory.ErrNotFound) || errors.Is(err, directory.ErrAmbiguous) {
		o.nobody.Store(true)
	}
	return e, err
}

func (o *observed) Entry(ctx context.Context, dn string) (*directory.Entry, error) {
	return ask(ctx, o, "entry", dn, func(ctx context.Context) (*directory.Entry, error) { return o.under.Entry(ctx, dn) }, entry)
}

func (o *observed) Groups(ctx context.Context, e *directory.Entry) (*directory.Groups, error) {
	return ask(ctx, o, "groups", e.DN, func(ctx context.Context) (*directory.Groups, error) { return o.under.Groups(ctx, e) },
		func(g *directory.Groups) (when time.Time, who string) {
			return when, cmp.Or(strings.Join(g.Addresses, ", "), "none")
		})
}

func (o *observed) Search(ctx context.Context, url string, limit int) iter.Seq2[*directory.Entry, error] {
	return func(yield func(*directory.Entry, error) bool) {
		stopped := false
		_, err := ask(ctx, o, "search", url, func(ctx context.Context) (found selected, err error) {
			for e, err := range o.under.Search(ctx, url, limit) {
				if err != nil {
					return found, err
				}
				if found.n++; found.n == 1 {
					found.first = e
				}
				if stopped = !yield(e, nil); stopped {
					break
				}
			}
			return found, nil
		}, selected.told)
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// selected is what a search gave.
type selected struct {
	n     int
	first *directory.Entry
}

func (s selected) told() (when time.Time, who string) {
	switch s.n {
	case 0:
		return when, "nobody"
	case 1:
		return entry(s.first)
	}
	return s.first.Fetched, fmt.Sprintf("%d entries, the first %s", s.n, s.first.DN)
}

// Authenticate is never asked by an expansion.
func (o *observed) Authenticate(ctx context.Context, e *directory.Entry, password string) error {
	return o.under.Authenticate(ctx, e, password)
}

func entry(e *directory.Entry) (time.Time, string) { return e.Fetched, e.DN }

// entries is when the first of them was fetched, and who they are.
func entries(list []*directory.Entry) (when time.Time, who string) {
	s := selected{n: len(list)}
	if s.n > 0 {
		s.first = list[0]
	}
	return s.told()
}

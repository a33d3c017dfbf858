package housekeeping

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
)

// What a job does to a status.
const (
	SetOverQuota   = "set"
	ClearOverQuota = "clear"
)

// QuotaOptions say what is done besides adding up.
type QuotaOptions struct {
	// Users looks at the quota of every user too.
	Users bool
}

// Report is what Quota found and did.
type Report struct {
	Domains []*DomainQuota `json:"domains"`
	// Users are those whose status changes, or cannot.
	Users  []*UserQuota `json:"users,omitempty"`
	Silent []Silent     `json:"silent,omitempty"`
	// Broken are domains that relays cannot read: mail for them waits whatever
	// they hold.
	Broken map[string]string `json:"broken,omitempty"`
}

// Sums are what mailboxes hold and may hold.
type Sums struct {
	Bytes         int64 `json:"bytes"`
	Messages      int64 `json:"messages"`
	LimitBytes    int64 `json:"limit_bytes"` // -1 is no limit
	LimitMessages int64 `json:"limit_messages"`
}

// Over reports whether there is no room for another message.
func (s *Sums) Over() bool {
	return s.LimitBytes > 0 && s.Bytes >= s.LimitBytes || s.LimitMessages > 0 && s.Messages >= s.LimitMessages
}

// Outcome is what becomes of the status of an entry.
type Outcome struct {
	DN      string `json:"dn"`
	Status  string `json:"status"`           // before
	Action  string `json:"action,omitempty"` // set, clear
	Done    bool   `json:"done,omitempty"`
	Skipped string `json:"skipped,omitempty"` // why nothing is done
	Error   string `json:"error,omitempty"`
}

// DomainQuota is one domain.
type DomainQuota struct {
	Domain    string `json:"domain"`
	Mailboxes int    `json:"mailboxes"`
	Sums
	Outcome
}

// UserQuota is one user.
type UserQuota struct {
	Account string `json:"account"`
	Address string `json:"address"`
	Sums
	Outcome
}

// Failed counts what could not be done.
func (r *Report) Failed() (n int) {
	for _, d := range r.Domains {
		if d.Skipped != "" || d.Error != "" {
			n++
		}
	}
	for _, u := range r.Users {
		if u.Skipped != "" || u.Error != "" {
			n++
		}
	}
	return n
}

// Quota adds up what the mailboxes of each domain hold, over all pairs, and sets
// or clears the status overquota of the domain's mail (directory.md 3 and 6), and
// with opt.Users of users. Only active becomes overquota and the other way round:
// a status that means something else is the operator's. An error says that
// nothing is known and nothing was changed.
func Quota(ctx context.Context, cfg Config, opt QuotaOptions) (*Report, error) {
	q := &quotas{cfg: &cfg, sums: map[string]*Sums{}, boxes: map[string]int{}, used: map[string]Used{}, blocked: map[*record]string{}}
	var err error
	if q.domains, err = readDomains(ctx, cfg.Directory, cfg.Domain); err != nil {
		return nil, err
	}
	rep := &Report{Domains: []*DomainQuota{}, Broken: map[string]string{}}
	for name, err := range q.domains.broken {
		if cfg.Domain == "" || name == cfg.Domain {
			rep.Broken[name] = err.Error()
		}
	}
	if rep.Silent, err = usage(ctx, &cfg, func(_ string, u Used) { q.add(u, opt.Users) }); err != nil {
		return nil, err
	}
	q.silent = rep.Silent
	if err := scanUsers(ctx, &cfg, func(e *directory.Entry) error { return q.entry(rep, e, opt.Users) }); err != nil {
		return nil, err
	}
	for _, r := range q.domains.all {
		if cfg.Domain == "" || r.Name == cfg.Domain {
			rep.Domains = append(rep.Domains, q.domain(r))
		}
	}
	slices.SortFunc(rep.Domains, func(a, b *DomainQuota) int { return strings.Compare(a.Domain+" "+a.DN, b.Domain+" "+b.DN) })
	return rep, q.change(ctx, rep)
}

// quotas is one run.
type quotas struct {
	cfg     *Config
	domains *domains
	silent  []Silent
	sums    map[string]*Sums   // by canonical name
	boxes   map[string]int     // the same
	used    map[string]Used    // by account, with Users
	blocked map[*record]string // why the sum of a domain is not known
}

func (q *quotas) add(u Used, users bool) {
	_, domain, _ := strings.Cut(u.Account, "@")
	if q.cfg.Domain != "" && domain != q.cfg.Domain {
		return
	}
	s := q.sums[domain]
	if s == nil {
		s = new(Sums)
		q.sums[domain] = s
	}
	s.Bytes += u.Bytes
	s.Messages += u.Messages
	q.boxes[domain]++
	if users {
		have := q.used[u.Account] // on several pairs, when it has moved
		u.Bytes, u.Messages = u.Bytes+have.Bytes, u.Messages+have.Messages
		q.used[u.Account] = u
	}
}

// entry notes whose sum is not known for want of an entry's mailbox.
func (q *quotas) entry(rep *Report, e *directory.Entry, users bool) error {
	if e.Kind != directory.User {
		return nil
	}
	in, err := q.domains.of(e.DN)
	if err != nil {
		return err
	}
	why := unasked(q.cfg, q.silent, e)
	if why != "" {
		for _, r := range in {
			if q.blocked[r] == "" {
				q.blocked[r] = why
			}
		}
	}
	if users {
		q.user(rep, e, why)
	}
	return nil
}

// user looks at the quota of one user: that of the entry, or else the one that
// the pair goes by.
func (q *quotas) user(rep *Report, e *directory.Entry, why string) {
	_, name, _ := strings.Cut(strings.ToLower(e.Mail), "@")
	r := q.domains.byName[name]
	if r == nil || e.UID == "" || q.cfg.Domain != "" && r.Name != q.cfg.Domain || e.MailStatus != directory.Active && e.MailStatus != directory.OverQuota {
		return
	}
	u := &UserQuota{Account: r.MailboxOf(e.UID), Address: e.Mail, Outcome: Outcome{DN: e.DN, Status: e.MailStatus.String()}}
	have, ok := q.used[u.Account]
	u.Sums = Sums{have.Bytes, have.Messages, -1, -1}
	if ok {
		u.LimitBytes, u.LimitMessages = have.LimitBytes, have.LimitMessages
	}
	if e.Quota != nil {
		u.LimitBytes, u.LimitMessages = limit(e.Quota.Bytes, u.LimitBytes), limit(e.Quota.Messages, u.LimitMessages)
	}
	if u.decide(e.MailStatus, &u.Sums, why); u.Action != "" || u.Skipped != "" {
		rep.Users = append(rep.Users, u)
	}
}

// limit is a limit of the directory, or the one that holds without it.
func limit(n, otherwise int64) int64 {
	if n == directory.QuotaDefault {
		return otherwise
	}
	return n
}

func (q *quotas) domain(r *record) *DomainQuota {
	out := &DomainQuota{
		Domain: r.Name, Mailboxes: q.boxes[r.Name],
		Sums:    Sums{LimitBytes: limit(r.DiskQuota, -1), LimitMessages: limit(r.MessageQuota, -1)},
		Outcome: Outcome{DN: r.DN, Status: r.MailStatus.String()},
	}
	if s := q.sums[r.Name]; s != nil {
		out.Bytes, out.Messages = s.Bytes, s.Messages
	}
	// A domain of the DC tree may share its mailboxes with another node.
	why := ""
	for _, o := range q.domains.named(r.Name) {
		if why == "" {
			why = q.blocked[o]
		}
	}
	out.decide(r.MailStatus, &out.Sums, why)
	return out
}

// decide says what is to become of a status; why is not empty when what is used
// is not known.
func (o *Outcome) decide(s directory.Status, sums *Sums, why string) {
	limited := sums.LimitBytes > 0 || sums.LimitMessages > 0
	switch {
	case s != directory.Active && s != directory.OverQuota, s == directory.Active && !limited:
	case why != "":
		o.Skipped = why
	case s == directory.Active && sums.Over():
		o.Action = SetOverQuota
	case s == directory.OverQuota && !sums.Over():
		o.Action = ClearOverQuota
	}
}

// change writes what is to be changed. It goes on after what one entry refuses.
func (q *quotas) change(ctx context.Context, rep *Report) error {
	if q.cfg.Editor == nil {
		return nil
	}
	type one struct {
		kind edit.Kind
		out  *Outcome
	}
	var list []one
	for _, d := range rep.Domains {
		list = append(list, one{edit.Domain, &d.Outcome})
	}
	for _, u := range rep.Users {
		list = append(list, one{edit.User, &u.Outcome})
	}
	for i, c := range list {
		if c.out.Action == "" {
			continue
		}
		if ctx.Err() != nil {
			for _, c := range list[i:] {
				if c.out.Action != "" {
					c.out.Skipped = ended
				}
			}
			return context.Cause(ctx)
		}
		q.cfg.progress("changes", i, len(list))
		to := directory.OverQuota
		if c.out.Action == ClearOverQuota {
			to = directory.Active
		}
		res, err := q.cfg.Editor.Do(ctx, edit.Request{Op: edit.Set, Kind: c.kind, Name: c.out.DN, Values: edit.Values{"status": {to.String()}}})
		if err != nil {
			c.out.Error = fmt.Sprint(err)
			continue
		}
		c.out.Done = res.Written
	}
	return nil
}

package housekeeping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
)

// What Purge does to an entry.
const (
	Remove = "remove" // its mailboxes, and then set the status removed
	Delete = "delete" // the entry
)

// PurgeOptions say what may be purged.
type PurgeOptions struct {
	// Grace is how long an entry has said that it is deleted, without another
	// change, before anything is removed.
	Grace time.Duration
	// Entries deletes what has had the status removed for the grace time, and
	// groups that are deleted.
	Entries bool
	// Orphans removes what a deleted domain has of mailboxes that are nobody's:
	// no entry has their uid any more.
	Orphans bool
	// Most is of how many users the mailboxes are removed; 0 is any number.
	Most int
	Now  time.Time
}

// Purged is one entry.
type Purged struct {
	Kind      edit.Kind     `json:"kind"`
	Name      string        `json:"name"` // address, or domain
	DN        string        `json:"dn"`
	Action    string        `json:"action"` // remove, delete
	Mailboxes []PurgedStore `json:"mailboxes,omitempty"`
	Done      bool          `json:"done,omitempty"`
	Waits     string        `json:"waits,omitempty"`   // the grace time is not over
	Skipped   string        `json:"skipped,omitempty"` // why nothing is done
	Error     string        `json:"error,omitempty"`

	uid      string
	mailHost string
	own      bool // the entry itself says that it is deleted, and not its domain only
	names    []string
}

// PurgedStore is a mailbox on a pair.
type PurgedStore struct {
	Pair     string `json:"pair"`
	Account  string `json:"account"`
	Bytes    int64  `json:"bytes"`
	Messages int64  `json:"messages"`
	Removed  bool   `json:"removed,omitempty"`
}

// PurgeReport is what Purge found and did.
type PurgeReport struct {
	Entries []*Purged `json:"entries"`
	Silent  []Silent  `json:"silent,omitempty"`
}

// Failed counts what could not be done.
func (r *PurgeReport) Failed() (n int) {
	for _, p := range r.Entries {
		if p.Skipped != "" || p.Error != "" {
			n++
		}
	}
	return n
}

// Purge removes the mailboxes of users who are deleted, by their own status or
// their domain's, for the grace time, and gives the status removed to those who
// are deleted themselves and to domains of which no mailbox is left (directory.md
// 6). An error says that nothing was changed, or that the run ended early: what
// the report says is done, is.
func Purge(ctx context.Context, cfg Config, opt PurgeOptions) (*PurgeReport, error) {
	p := &purge{
		cfg: &cfg, opt: opt, rep: &PurgeReport{Entries: []*Purged{}}, held: map[string][]PurgedStore{}, left: map[string]int{},
		strays: map[string][]PurgedStore{},
	}
	var err error
	if p.domains, err = readDomains(ctx, cfg.Directory, cfg.Domain); err != nil {
		return nil, err
	}
	if err := scanUsers(ctx, &cfg, p.entry); err != nil {
		return nil, err
	}
	for _, r := range p.domains.all {
		p.domain(r)
	}
	if len(p.rep.Entries) == 0 {
		return p.rep, nil
	}
	for _, c := range p.rep.Entries {
		for _, name := range c.names {
			p.held[name] = nil
		}
	}
	if p.rep.Silent, err = usage(ctx, &cfg, p.mailbox); err != nil {
		return nil, err
	}
	for i, c := range p.rep.Entries {
		if ctx.Err() != nil {
			for _, c := range p.rep.Entries[i:] {
				c.Skipped = ended
			}
			return p.rep, context.Cause(ctx)
		}
		cfg.progress("purged", i, len(p.rep.Entries))
		if err := p.one(ctx, c); err != nil {
			c.Error = err.Error()
		}
	}
	return p.rep, nil
}

// purge is one run. Its candidates are in order: users and groups before domains.
type purge struct {
	cfg     *Config
	opt     PurgeOptions
	domains *domains
	rep     *PurgeReport
	held    map[string][]PurgedStore // mailboxes of candidates, by account
	left    map[string]int           // mailboxes of each domain that are not removed
	strays  map[string][]PurgedStore // those of domains that go, and of no candidate, with Orphans
	removed int                      // users whose mailboxes are
}

func gone(s directory.Status) bool { return s == directory.Deleted || s == directory.Removed }

// entry adds a user or group that is deleted everywhere that it can be reached.
func (p *purge) entry(e *directory.Entry) error {
	in, err := p.domains.of(e.DN)
	if err != nil || len(in) == 0 {
		return err
	}
	own, _ := directory.Effective(nil, e)
	c := &Purged{Kind: edit.User, Name: e.Mail, DN: e.DN, Action: Remove, uid: e.UID, mailHost: e.MailHost, own: gone(own)}
	removed := true // every mailbox that it can have is removed
	for _, r := range in {
		if p.cfg.Domain != "" && r.Name != p.cfg.Domain {
			return nil
		}
		if s, _ := directory.Effective(r.Domain, e); !gone(s) {
			return nil
		}
		removed = removed && (r.MailStatus == directory.Removed || e.MailStatus == directory.Removed)
		if name := r.MailboxOf(e.UID); e.UID != "" && !slices.Contains(c.names, name) {
			c.names = append(c.names, name)
		}
	}
	switch {
	case e.Kind == directory.Group:
		if !p.opt.Entries {
			return nil
		}
		c.Kind, c.Action = edit.Group, Delete
	case removed && !p.opt.Entries:
		return nil
	case removed:
		c.Action = Delete
	}
	p.rep.Entries = append(p.rep.Entries, c)
	return nil
}

// domain adds a domain that is deleted.
func (p *purge) domain(r *record) {
	s, _ := directory.Effective(r.Domain, nil)
	if !gone(s) || p.cfg.Domain != "" && r.Name != p.cfg.Domain {
		return
	}
	c := &Purged{Kind: edit.Domain, Name: r.name, DN: r.DN, Action: Remove}
	if r.MailStatus == directory.Removed {
		if !p.opt.Entries {
			return
		}
		c.Action = Delete
	}
	if p.opt.Orphans {
		p.strays[r.Name] = nil
	}
	p.rep.Entries = append(p.rep.Entries, c)
}

// mailbox notes a mailbox of a candidate, and how many a domain has.
func (p *purge) mailbox(pair string, u Used) {
	_, domain, _ := strings.Cut(u.Account, "@")
	p.left[domain]++
	box := PurgedStore{Pair: pair, Account: u.Account, Bytes: u.Bytes, Messages: u.Messages}
	if list, ok := p.held[u.Account]; ok {
		p.held[u.Account] = append(list, box)
	} else if list, ok := p.strays[domain]; ok {
		p.strays[domain] = append(list, box)
	}
}

// one purges one candidate.
func (p *purge) one(ctx context.Context, c *Purged) error {
	for _, name := range c.names {
		c.Mailboxes = append(c.Mailboxes, p.held[name]...)
	}
	if c.Skipped = p.unknown(c); c.Skipped != "" {
		return nil
	}
	if c.Kind == edit.Domain {
		return p.oneDomain(ctx, c)
	}
	if c.Action == Delete && len(c.Mailboxes) > 0 {
		c.Skipped = fmt.Sprintf("its mailbox %s is on %s", c.Mailboxes[0].Account, c.Mailboxes[0].Pair)
		return nil
	}
	if err := p.sure(ctx, c); err != nil || c.Waits != "" || c.Skipped != "" {
		return err
	}
	if c.Action == Delete {
		return p.edit(ctx, c, edit.Request{Op: edit.Delete, Kind: c.Kind, Name: c.DN})
	}
	if len(c.Mailboxes) > 0 {
		if p.opt.Most > 0 && p.removed >= p.opt.Most {
			c.Skipped = fmt.Sprintf("%d users is what one run may purge", p.opt.Most)
			return nil
		}
		p.removed++
	}
	for i := range c.Mailboxes {
		if err := p.remove(ctx, c, &c.Mailboxes[i]); err != nil {
			return err
		}
	}
	if !c.own {
		c.Done = p.changes() // what is removed is the domain's to say
		return nil
	}
	return p.edit(ctx, c, edit.Request{Op: edit.Set, Kind: edit.User, Name: c.DN, Values: edit.Values{"status": {directory.Removed.String()}}})
}

// unknown says why it is not known what mailboxes a candidate has.
func (p *purge) unknown(c *Purged) string {
	if c.Kind == edit.User && c.mailHost != "" {
		return unasked(p.cfg, p.rep.Silent, &directory.Entry{DN: c.DN, MailHost: c.mailHost})
	}
	if len(p.rep.Silent) > 0 {
		return fmt.Sprintf("%s could not be asked", p.rep.Silent[0].Pair)
	}
	return ""
}

// changes reports whether anything is changed at all.
func (p *purge) changes() bool { return p.cfg.Editor != nil && !p.cfg.Editor.DryRun() }

func (p *purge) edit(ctx context.Context, c *Purged, req edit.Request) error {
	if p.cfg.Editor == nil {
		return nil
	}
	res, err := p.cfg.Editor.Do(ctx, req)
	if err != nil {
		return err
	}
	c.Done = res.Written
	return nil
}

// remove removes a mailbox, once the audit log says that this is tried.
func (p *purge) remove(ctx context.Context, c *Purged, m *PurgedStore) error {
	if !p.changes() {
		return nil
	}
	what := &edit.Result{Op: edit.Delete, Kind: edit.Mailbox, DN: c.DN, Changes: []edit.Edit{{Attribute: "mailbox", Old: []string{
		fmt.Sprintf("%s on %s, %d messages, %d octets", m.Account, m.Pair, m.Messages, m.Bytes),
	}}}}
	if err := p.cfg.Editor.Record(what, nil); err != nil {
		return err
	}
	if err := p.cfg.Pairs.Remove(ctx, m.Pair, m.Account); err != nil {
		err = fmt.Errorf("%s on %s: %w", m.Account, m.Pair, err)
		return errors.Join(err, p.cfg.Editor.Record(what, err))
	}
	m.Removed = true
	_, domain, _ := strings.Cut(m.Account, "@")
	p.left[domain]--
	return nil
}

// oneDomain gives a domain without mailboxes the status removed, or deletes it.
// It comes after its users.
func (p *purge) oneDomain(ctx context.Context, c *Purged) error {
	since, r, err := p.asked(ctx, c.Name, nil)
	if err != nil {
		return err
	}
	if s, _ := directory.Effective(r.Domain, nil); !gone(s) {
		c.Skipped = "it is not deleted any more"
		return nil
	}
	if c.Waits = p.early(since); c.Waits != "" {
		return nil
	}
	// Mailboxes that are another record's by that name are not this one's.
	shared := false
	for _, o := range p.domains.named(r.Name) {
		s, _ := directory.Effective(o.Domain, nil)
		shared = shared || !gone(s)
	}
	if !shared {
		if err := p.orphans(ctx, c, r.Name); err != nil || c.Skipped != "" {
			return err
		}
		if left := p.left[r.Name] - p.planned(r.Name); left > 0 {
			c.Skipped = fmt.Sprintf("%d mailboxes of it are left, of users that are named here or of nobody", left)
			return nil
		}
	}
	if c.Action == Delete {
		return p.edit(ctx, c, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: c.DN})
	}
	return p.edit(ctx, c, edit.Request{Op: edit.Set, Kind: edit.Domain, Name: c.DN, Values: edit.Values{"status": {directory.Removed.String()}}})
}

// orphans removes the mailboxes of a domain that goes whose uid no entry has,
// asked again, in any domain of that name. It is the domain's status that says
// so, not that there is no entry; who has one is not here, but is purged, or
// kept, by it.
func (p *purge) orphans(ctx context.Context, c *Purged, domain string) error {
	if len(p.strays[domain]) == 0 {
		return nil
	}
	if err := p.domains.broken[domain]; err != nil {
		c.Skipped = fmt.Sprintf("domain %s: %v", domain, err)
		return nil
	}
	stays := map[string]bool{} // by account
	for _, box := range p.strays[domain] {
		stay, known := stays[box.Account]
		if !known {
			var err error
			if stay, err = p.anybody(ctx, box.Account, domain); err != nil {
				return err
			}
			switch {
			case stay:
			case p.opt.Most > 0 && p.removed >= p.opt.Most:
				c.Skipped = fmt.Sprintf("%d users is what one run may purge", p.opt.Most)
				stay = true
			default:
				p.removed++
			}
			stays[box.Account] = stay
		}
		if stay {
			continue
		}
		c.Mailboxes = append(c.Mailboxes, box)
		if err := p.remove(ctx, c, &c.Mailboxes[len(c.Mailboxes)-1]); err != nil {
			return err
		}
	}
	return nil
}

// anybody reports whether an entry has the uid of an account, in a domain of
// that name.
func (p *purge) anybody(ctx context.Context, account, domain string) (bool, error) {
	uid, _, _ := strings.Cut(account, "@")
	for _, r := range p.domains.named(domain) {
		found, err := p.cfg.Directory.Find(ctx, r.BaseDN, []string{p.cfg.Directory.Schema().UID}, []string{uid}, 1)
		if errors.Is(err, directory.ErrTooMany) || len(found) > 0 {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// planned counts the mailboxes of a domain that would have been removed.
func (p *purge) planned(domain string) (n int) {
	if p.changes() {
		return 0
	}
	for _, c := range p.rep.Entries {
		if c.Action != Remove && c.Kind != edit.Domain || c.Waits != "" || c.Skipped != "" || c.Error != "" {
			continue
		}
		for i := range c.Mailboxes {
			if _, d, _ := strings.Cut(c.Mailboxes[i].Account, "@"); d == domain {
				n++
			}
		}
	}
	return n
}

// early says when the grace time of what was changed last is over, "" when it is.
func (p *purge) early(since time.Time) string {
	if end := since.Add(p.opt.Grace); end.After(p.opt.Now) {
		return end.UTC().Format(time.RFC3339)
	}
	return ""
}

// sure asks the directory again, about everybody who may be meant by the
// candidate's mailboxes, and notes what keeps it from being purged.
func (p *purge) sure(ctx context.Context, c *Purged) error {
	now, err := p.cfg.Directory.Entry(ctx, c.DN)
	if err != nil {
		return err
	}
	if now.UID != c.uid {
		c.Skipped = "its uid has changed meanwhile"
		return nil
	}
	in, err := p.domains.of(c.DN)
	if err != nil {
		return err
	}
	for _, r := range in {
		// A mailbox is everybody's who has the uid in a domain of that name.
		for _, o := range p.domains.named(r.Name) {
			if err := p.dead(ctx, c, o, now); err != nil || c.Waits != "" || c.Skipped != "" {
				return err
			}
		}
		if err := p.domains.broken[r.Name]; err != nil {
			c.Skipped = fmt.Sprintf("domain %s: %v", r.Name, err)
			return nil
		}
	}
	return nil
}

// dead sees to it that whoever has the candidate's uid in a domain is deleted
// there, and has been long enough.
func (p *purge) dead(ctx context.Context, c *Purged, o *record, now *directory.Entry) error {
	people := []*directory.Entry{now}
	if c.uid != "" {
		s := p.cfg.Directory.Schema()
		found, err := p.cfg.Directory.Find(ctx, o.BaseDN, []string{s.UID}, []string{c.uid}, 100)
		if err != nil {
			return err
		}
		for _, e := range found {
			if e.Kind == directory.User && e.DN != now.DN {
				people = append(people, e)
			}
		}
	}
	for _, e := range people {
		since, r, err := p.asked(ctx, o.name, e)
		if err != nil {
			return err
		}
		if s, _ := directory.Effective(r.Domain, e); !gone(s) {
			c.Skipped = fmt.Sprintf("%s is %s in %s", e.DN, s, o.name)
			return nil
		}
		if c.Waits = p.early(since); c.Waits != "" {
			return nil
		}
	}
	return nil
}

// asked reads a domain again, and says since when what makes it, or with e the
// entry, deleted has been as it is.
func (p *purge) asked(ctx context.Context, name string, e *directory.Entry) (time.Time, *record, error) {
	d := p.cfg.Directory
	dom, err := d.Domain(ctx, name)
	if err != nil {
		return time.Time{}, nil, fmt.Errorf("domain %s: %w", name, err)
	}
	var dns []string
	if s, _ := directory.Effective(dom, nil); e == nil || gone(s) {
		dns = append(dns, dom.DN)
		if dom.BaseDN != dom.DN {
			dns = append(dns, dom.BaseDN) // whose status may win
		}
	}
	if e != nil && len(dns) == 0 { // what the domain says is enough
		if s, _ := directory.Effective(nil, e); gone(s) {
			dns = append(dns, e.DN)
		}
	}
	var since time.Time
	for _, dn := range dns {
		t, err := changed(ctx, d, dn)
		if err != nil {
			return time.Time{}, nil, err
		}
		if t.After(since) {
			since = t
		}
	}
	return since, &record{dom, name}, nil
}

package drill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/ha/drill/mailbox"
	"github.com/postern-mail/postern/shared/admin"
)

// queued is the number of messages in the queue of a relay.
func queued(ctx context.Context, t Target, relay string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	for _, n := range t.Nodes() {
		if n.Name != relay {
			continue
		}
		s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
		if err != nil {
			return 0, err
		}
		if s.Queue == nil {
			return 0, fmt.Errorf("%s says nothing of its queue", relay)
		}
		return s.Queue.Queued, nil
	}
	return 0, fmt.Errorf("no relay %q", relay)
}

// ours is the number of messages of the load in the queue of a relay; a cluster
// may have other mail waiting.
func ours(ctx context.Context, t Target, relay string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	for _, n := range t.Nodes() {
		if n.Name == relay {
			q, err := admin.Call(ctx, n.Admin, admin.QueueList, admin.QueueQuery{Address: ledger.Sender})
			return len(q.Messages), err
		}
	}
	return 0, fmt.Errorf("no relay %q", relay)
}

// check makes the assertions that every scenario ends with. It goes on after
// one that fails.
func (r *run) check(ctx context.Context) error {
	broken := r.awaitWell(ctx, wellWithin)
	broken = errors.Join(broken, r.queuesEmpty(ctx))
	if r.o.NegativeControl {
		r.enter("negative control")
		if err := r.takeOneAway(ctx); err != nil {
			return errors.Join(broken, err)
		}
	}
	r.enter("check")
	if err := r.mailboxes(ctx); err != nil && !errors.Is(err, errBroken) {
		return errors.Join(broken, err)
	} else if err != nil {
		broken = errors.Join(broken, err)
	}
	broken = errors.Join(broken, r.digests(ctx))
	if ctx.Err() != nil {
		return errors.Join(broken, context.Cause(ctx))
	}
	broken = errors.Join(broken, r.gaps(), r.whole())
	r.finished = true
	return broken
}

func (r *run) queuesEmpty(ctx context.Context) error {
	began := time.Now()
	left := ""
	ok := r.until(ctx, r.o.patience, func() bool {
		for _, relay := range byRole(r.t, "", RoleRelay) {
			n, err := ours(ctx, r.t, relay)
			if err != nil || n > 0 {
				left = fmt.Sprintf("%d left on %s", n, relay)
				if err != nil {
					left = err.Error()
				}
				return false
			}
		}
		return true
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !ok {
		return r.expect(false, "queues are empty", "not after %v: %s", r.o.patience, left)
	}
	return r.expect(true, "queues are empty", "%v after the load", time.Since(began).Round(time.Millisecond))
}

// takeOneAway removes an acknowledged message from its mailbox, and tells the
// ledger nothing.
func (r *run) takeOneAway(ctx context.Context) error {
	entries := r.led.Entries()
	for i := len(entries) / 2; i < len(entries); i++ {
		e := &entries[i]
		if e.Outcome != ledger.Acknowledged {
			continue
		}
		for u := range r.users {
			if r.users[u].Address != e.Recipient {
				continue
			}
			ctx, cancel := context.WithTimeout(ctx, 2*readWithin)
			defer cancel()
			r.event("negative control: message %s is removed from the mailbox of %s", e.ID, e.Recipient)
			if err := r.access.Remove(ctx, r.mailUser(u), e.ID); err != nil {
				return fmt.Errorf("negative control: %w", err)
			}
			r.res.Control = &Control{ID: e.ID, Recipient: e.Recipient}
			return nil
		}
	}
	return errors.New("negative control: no acknowledged message to remove")
}

// read reads the mailbox of user i. A session that breaks, as it does when the
// pair elects again on a busy machine, is begun anew.
func (r *run) read(ctx context.Context, i int) (in *mailbox.Inbox, err error) {
	const attempts = 5
	for n := 1; ; n++ {
		in, err = r.access.Read(ctx, r.mailUser(i), r.marks[r.users[i].Address], r.load.Run, r.o.Size)
		if err == nil || n == attempts {
			return in, err
		}
		r.event("mailbox of %s is read again: %v", r.users[i].Login, err)
		if err := r.wait(ctx, settle); err != nil {
			return nil, err
		}
	}
}

// readers is how many mailboxes are read at once.
const readers = 4

// mailboxes reads every mailbox and compares them with the ledger.
func (r *run) mailboxes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readAllWithin)
	defer cancel()
	found := map[ledger.Key]int{}
	_, _, _, faults := r.user.Answers()
	for _, p := range r.crowd {
		_, _, _, more := p.Answers()
		faults = append(faults, more...)
	}
	var errs []error
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, readers)
	for i, u := range r.users {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			in, err := r.read(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			faults = append(faults, in.Faults...)
			for id, n := range in.Copies {
				found[ledger.Key{Recipient: u.Address, ID: id}] += n
				r.res.Counts.Found += n
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("mailboxes could not be read: %w", err)
	}
	return errors.Join(r.compare(ledger.Check(r.led.Entries(), found), faults), r.places(ctx, found))
}

// maxShown bounds the findings of a report.
const maxShown = 100

func (r *run) compare(findings []ledger.Finding, faults []string) error {
	c := &r.res.Counts
	by := map[ledger.Kind]int{}
	for i := range findings {
		by[findings[i].Kind]++
		if k := r.res.Control; k != nil && findings[i].Kind == ledger.Missing && findings[i].ID == k.ID {
			k.Noticed = true
		}
	}
	c.Missing, c.Doubled = by[ledger.Missing], by[ledger.Doubled]
	r.res.Findings = findings[:min(len(findings), maxShown)]
	first := func(k ledger.Kind) string {
		for i := range findings {
			if findings[i].Kind == k {
				return "; first " + findings[i].String()
			}
		}
		return ""
	}
	acked, _, unknown := r.led.Counts()
	text := "no fault in UIDs and texts"
	if len(faults) > 0 {
		text = fmt.Sprintf("%d faults; first %s", len(faults), faults[0])
	}
	return errors.Join(
		r.expect(by[ledger.Missing] == 0, "every acknowledged message is there", "%d of %d are missing%s", by[ledger.Missing], acked, first(ledger.Missing)),
		r.expect(by[ledger.Doubled] == 0, "no message is there twice", "%d are, of %d acknowledged and %d unknown%s", by[ledger.Doubled], acked, unknown, first(ledger.Doubled)),
		r.expect(by[ledger.Accepted] == 0, "no refused message is there", "%d are%s", by[ledger.Accepted], first(ledger.Accepted)),
		r.expect(by[ledger.Stray] == 0, "no message is in another's mailbox", "%d are%s", by[ledger.Stray], first(ledger.Stray)),
		r.expect(len(faults) == 0, "UIDs only grow, texts are whole", "%s", text),
	)
}

// digests compares what the replicas of every pair hold.
func (r *run) digests(ctx context.Context) error {
	var errs []error
	for _, pair := range pairsOf(r.t) {
		var at map[string]admin.Digest
		var why string
		same := r.until(ctx, r.o.patience/2, func() bool {
			at, why = r.digest(ctx, pair)
			return why == ""
		})
		if !same {
			errs = append(errs, r.expect(false, "replicas of "+pair+" are equal", "%s", why))
			continue
		}
		digest, applied := "", uint64(0)
		for _, d := range at {
			digest, applied = d.Digest, d.Applied
		}
		errs = append(errs, r.expect(true, "replicas of "+pair+" are equal", "%d replicas at entry %d with digest %.16s", len(at), applied, digest))
	}
	return errors.Join(errs...)
}

// digest asks the replicas of a pair; why says how they differ.
func (r *run) digest(ctx context.Context, pair string) (at map[string]admin.Digest, why string) {
	at = map[string]admin.Digest{}
	var first admin.Digest
	for _, n := range r.t.Nodes() {
		if n.Pair != pair || n.Role != RoleData {
			continue
		}
		c, cancel := context.WithTimeout(ctx, 5*time.Second)
		d, err := admin.Call(c, n.Admin, admin.PairDigest, admin.PairName{Pair: pair})
		cancel()
		switch {
		case err != nil:
			return at, n.Name + ": " + err.Error()
		case d.Digest == "":
			return at, n.Name + " gives no digest"
		case len(at) == 0:
			first = d
		case d.Applied != first.Applied:
			why = fmt.Sprintf("%s stands at entry %d, %s at %d", first.Node, first.Applied, n.Name, d.Applied)
		case d.Digest != first.Digest:
			why = fmt.Sprintf("at entry %d %s has %s, %s has %s", d.Applied, first.Node, first.Digest, n.Name, d.Digest)
		}
		at[n.Name] = d
	}
	if len(at) < 2 && why == "" {
		why = "one data replica only"
	}
	return at, why
}

// whole asserts that no client had anything fail, where that is promised.
func (r *run) whole() error {
	if !r.s.Whole {
		return nil
	}
	_, refused, unknown := r.led.Counts()
	answers, failed, last := 0, 0, ""
	for _, p := range append([]*mailbox.Prober{r.user}, r.crowd...) {
		ok, bad, why, _ := p.Answers()
		answers, failed = answers+len(ok), failed+len(bad)
		if why != "" {
			last = "; last " + why
		}
	}
	return r.expect(refused+unknown+failed == 0, "nothing fails", "%d messages refused, %d unknown; %d of %d commands by IMAP of %d sessions failed%s",
		refused, unknown, failed, answers+failed, 1+len(r.crowd), last)
}

// gaps measures the longest time without an answer on each tier.
func (r *run) gaps() error {
	answers, _, last, _ := r.user.Answers()
	smtp := r.gap(r.led.Acks(), r.s.SMTP)
	imap := r.gap(answers, r.s.IMAP)
	r.res.SMTP, r.res.IMAP = smtp, imap
	one := func(name string, g *Gap, more string) error {
		limit := time.Duration(g.Limit) * time.Millisecond
		if limit == 0 {
			return nil
		}
		return r.expect(g.Millis <= g.Limit, name, "longest gap %v, limit %v%s", time.Duration(g.Millis)*time.Millisecond, limit, more)
	}
	if last != "" {
		last = "; last error " + last
	}
	if n := len(r.crowd); n > 0 {
		silent := 0
		for _, p := range r.crowd {
			if answers, _, _, _ := p.Answers(); len(answers) == 0 {
				silent++
			}
		}
		if err := r.expect(silent == 0, "every session is answered", "%d of %d never were", silent, n); err != nil {
			return err
		}
	}
	return errors.Join(one("deliveries are answered in time", &smtp, ""), one("a user at work is answered in time", &imap, last))
}

func (r *run) gap(times []time.Time, limit time.Duration) Gap {
	limit = time.Duration(float64(limit) * r.o.Slack)
	from := r.res.Load.From
	if r.s.Outage && !r.recovered.IsZero() {
		from = r.recovered
	}
	for _, t := range times { // the first answer: connecting is no gap
		if !r.s.Outage && !t.Before(from) {
			from = t
			break
		}
	}
	g := ledger.Longest(times, from, r.res.Load.To)
	return Gap{g.From, g.To, from, g.Length().Milliseconds(), limit.Milliseconds()}
}

// sessions sums up the sessions beside that of the user at work.
func (r *run) sessions() {
	sum := Sessions{Count: len(r.crowd)}
	for _, p := range r.crowd {
		answers, errors, _, _ := p.Answers()
		sum.Answers += len(answers)
		sum.Errors += len(errors)
		if len(answers) == 0 {
			sum.Silent++
			continue
		}
		g := ledger.Longest(answers, answers[0], r.res.Load.To)
		sum.LongestMillis = max(sum.LongestMillis, g.Length().Milliseconds())
	}
	if sum.Count > 0 {
		r.res.Sessions = &sum
	}
}

// judge fills in the figures and the verdict. err is how the drill ended.
func (r *run) judge(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	res := r.res
	c := &res.Counts
	c.Acknowledged, c.Refused, c.Unknown = r.led.Counts()
	c.Sent = c.Acknowledged + c.Refused + c.Unknown
	res.Refusals = r.led.Refusals()
	if r.watch != nil {
		res.Serving, res.Queues = r.watch.results()
	}
	if r.user != nil {
		answers, errors, _, _ := r.user.Answers()
		c.IMAP, c.IMAPErrors = len(answers), len(errors)
		if res.Load.To.IsZero() {
			res.Load.To = time.Now()
		}
		r.sessions()
		if !res.Load.From.IsZero() {
			res.Series = seriesOf(res.Load, r.led.Entries(), answers)
		}
	}
	for i := range res.Faults {
		if res.Faults[i].To.IsZero() {
			res.Faults[i].To = res.Load.To
		}
	}
	broken := ""
	for i := range res.Checks {
		if !res.Checks[i].OK {
			broken = res.Checks[i].Name + ": " + res.Checks[i].Detail
			break
		}
	}
	switch {
	case res.Control != nil && r.finished && !res.Control.Noticed:
		res.Verdict = Errored
		res.Reason = fmt.Sprintf("negative control: message %s was removed and the check did not notice", res.Control.ID)
	case broken != "":
		res.Verdict, res.Reason = Failed, broken
	case err != nil || !r.finished || !r.hurt:
		res.Verdict, res.Reason = Errored, "the drill did not come to its end"
		if err != nil {
			res.Reason = err.Error()
		}
	default:
		res.Verdict = Passed
	}
}

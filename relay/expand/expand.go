package expand

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Bounds of one expansion.
const (
	MaxDepth = 10     // steps from the address given to a final one (directory.md 13.5)
	MaxFinal = 50_000 // final deliveries of one recipient
	maxSteps = 4 * MaxFinal
)

// Config is what New needs.
type Config struct {
	Directory directory.Directory
	// Pair finds the pair that a mailHost names; Pairs makes one.
	Pair func(mailHost string) (pair string, ok bool)
	// ListLimit is how many members a list may have to be expanded while the
	// client waits, 1,000.
	ListLimit int
	// OverQuotaTemporary answers 452 4.2.2 for users whose status is overquota,
	// not 552 5.2.2.
	OverQuotaTemporary bool
	// Reprocessing reports that the message comes from the channel reprocess.
	Reprocessing func(ctx context.Context) bool
	Log          *slog.Logger
}

// Expander expands recipients. Any number of goroutines may use it.
type Expander struct {
	cfg    Config
	alarms alarms
}

// New checks cfg.
func New(cfg Config) (*Expander, error) {
	if cfg.Directory == nil || cfg.Pair == nil {
		return nil, errors.New("expand: Directory and Pair are required")
	}
	if cfg.ListLimit == 0 {
		cfg.ListLimit = 1000
	}
	if cfg.Reprocessing == nil {
		cfg.Reprocessing = func(context.Context) bool { return false }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Expander{cfg: cfg, alarms: alarms{log: cfg.Log}}, nil
}

// Pairs returns a function for Config.Pair: a mailHost names a pair by the
// pair's whole name or by its own first label, without case (architecture.md
// 13).
func Pairs(names ...string) func(mailHost string) (string, bool) {
	byName := make(map[string]string, len(names))
	for _, n := range names {
		byName[strings.ToLower(n)] = n
	}
	return func(mailHost string) (string, bool) {
		mailHost = strings.ToLower(mailHost)
		if name, ok := byName[mailHost]; ok {
			return name, true
		}
		label, _, _ := strings.Cut(mailHost, ".")
		name, ok := byName[label]
		return name, ok
	}
}

// Step is one step of an expansion, for people who want to know why.
type Step struct {
	Depth   int          // 0 for the address given
	Address mail.Address // what is being expanded
	DN      string       // entry concerned, "" if none
	Text    string       // what was found or done
}

// Rcpt returns the final recipients that r stands for, at least one of them.
// The error is the reply.
func (x *Expander) Rcpt(ctx context.Context, env *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	return x.Explain(ctx, env, r, nil)
}

// Explain is Rcpt, and tells trace of each step.
func (x *Expander) Explain(ctx context.Context, _ *mail.Envelope, r mail.Recipient, trace func(Step)) ([]mail.Recipient, error) {
	w := walk{x: x, ctx: ctx, now: x.cfg.Reprocessing(ctx), trace: trace}
	for _, v := range r.Via { // what came by the channel reprocess has a past
		if a, err := mail.ParseAddress(v, true); err == nil {
			w.path = append(w.path, a)
		}
	}
	var err error
	if len(w.path) > MaxDepth {
		err = refuse(r.Address, 550, mail.StatusLoop, "Too many levels of forwarding or lists", nil)
	} else if err = w.address(r); err == nil {
		err = w.finish(r)
	}
	if err != nil {
		w.note(r.Address, "", "refused", err)
		return nil, err
	}
	return w.final, nil
}

// walk is the expansion of one recipient.
type walk struct {
	x     *Expander
	ctx   context.Context
	now   bool // nothing may be put off
	trace func(Step)

	path   []mail.Address // addresses on the way here
	steps  int
	seen   map[string]bool // DNs of entries that were expanded, once there is more than one
	final  []mail.Recipient
	failed []failure // members and forwarding addresses that were refused
	outage bool      // the error in hand is about all of this walk and not one branch
	loops  int       // addresses that were left out because of a loop
}

// failure is an address on the way that was refused, and why.
type failure struct {
	r   mail.Recipient
	err error
}

// finish adds what goes to the channel reprocess, or finds that nothing is
// left.
func (w *walk) finish(r mail.Recipient) error {
	if len(w.final) > 0 {
		for _, f := range w.failed {
			var deep *tooDeep
			if errors.As(f.err, &deep) && w.seen[deep.dn] {
				continue // reached by a shorter way
			}
			f.r.Channel, f.r.NextHop = mail.ChannelReprocess, ""
			w.final = append(w.final, f.r)
		}
		return nil
	}
	for _, f := range w.failed {
		if !mail.Permanent(f.err) {
			return f.err
		}
	}
	switch {
	case len(w.failed) > 0:
		return w.failed[0].err
	case w.loops > 0:
		return refuse(r.Address, 550, mail.StatusLoop, "Forwarding leads nowhere", nil)
	}
	return refuse(r.Address, 550, mail.Status{5, 2, 4}, "List has no members", nil) // RFC 3463 3.3
}

// note tells the trace. It is cheap when there is none.
func (w *walk) note(a mail.Address, dn, text string, err error) {
	if w.trace == nil {
		return
	}
	if err != nil {
		text += ": " + err.Error()
	}
	w.trace(Step{Depth: len(w.path), Address: a, DN: dn, Text: text})
}

func refuse(to mail.Address, code int, status mail.Status, text string, err error) error {
	return &mail.Error{Op: "expand.Rcpt", Rcpt: to, Code: code, Status: status, Reply: text, Err: err}
}

// unknown is the answer when the directory could not say. It ends the whole
// expansion.
func (w *walk) unknown(to mail.Address, err error) error {
	w.outage = true
	return refuse(to, 451, mail.StatusDirectoryFailure, "Directory not available, try again later", err)
}

// tooLarge is the answer when there are more than MaxFinal deliveries. It ends
// the whole expansion: a list is sent whole or not.
func (w *walk) tooLarge(r mail.Recipient, err error) error {
	w.outage = true
	return refuse(r.Address, 550, mail.Status{5, 5, 3}, "List too large", err)
}

// misconfigured is the answer when the directory says what cannot be. People
// have to mend it; mail waits.
func (w *walk) misconfigured(to mail.Address, dn, what string, err error) error {
	w.x.alarms.raise(what, dn, to, err)
	return refuse(to, 451, mail.Status{4, 3, 5}, "Not set up correctly, try again later", err)
}

// address expands r.Address.
func (w *walk) address(r mail.Recipient) error {
	if err := w.ctx.Err(); err != nil {
		return w.unknown(r.Address, err)
	}
	name, err := directory.NormalizeDomain(r.Address.Domain)
	if err != nil || strings.HasPrefix(name, "[") {
		return refuse(r.Address, 550, mail.StatusBadDomain, "Domain not known", err)
	}
	d, err := w.x.cfg.Directory.Domain(w.ctx, name)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		w.note(r.Address, "", "domain is not ours", nil)
		r.Channel, r.NextHop = mail.ChannelSMTP, name
		return w.add(r)
	case errors.Is(err, directory.ErrAmbiguous):
		w.x.alarms.raise("domain is claimed by more than one organization", name, r.Address, err)
		return refuse(r.Address, 451, mail.StatusDirectoryFailure, "Domain not set up correctly, try again later", err)
	case err != nil:
		return w.unknown(r.Address, err)
	}
	a := mail.Address{Local: r.Address.Local, Domain: name}
	ans, err := w.x.cfg.Directory.Lookup(w.ctx, d, a)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		w.note(r.Address, d.DN, "nobody in this domain", nil)
		if s, _ := directory.Effective(d, nil); s != directory.Active {
			return w.status(r, s, "Domain")
		}
		return refuse(r.Address, 550, mail.StatusBadMailbox, "No such user here", nil)
	case err != nil:
		return w.unknown(r.Address, err)
	}
	e, err := w.only(r, ans.Entries)
	if err != nil {
		return err
	}
	r.Folder = ans.DetailOf(a)
	return w.entry(r, d, e)
}

// only is the entry that remains of those with the address (directory.md 4.8).
func (w *walk) only(r mail.Recipient, entries []*directory.Entry) (*directory.Entry, error) {
	if len(entries) == 1 {
		return entries[0], nil
	}
	var left *directory.Entry
	for _, e := range entries {
		s, _ := directory.Effective(nil, e)
		if s == directory.Deleted || s == directory.Removed || e.Kind == directory.User && e.UID == "" {
			w.note(r.Address, e.DN, "left out: deleted or without uid", nil)
			continue
		}
		if left != nil {
			w.x.alarms.raise("address belongs to more than one entry", left.DN+" and "+e.DN, r.Address, nil)
			return nil, refuse(r.Address, 550, mail.StatusAmbiguous, "Address is ambiguous", directory.ErrAmbiguous)
		}
		left = e
	}
	if left == nil {
		return nil, refuse(r.Address, 550, mail.StatusBadMailbox, "No such user here", nil)
	}
	return left, nil
}

// step goes on with address to, for a forward or a member, by way of via.
// entry is its entry when it is known already, in domain d.
func (w *walk) step(r mail.Recipient, to mail.Address, via []string, d *directory.Domain, e *directory.Entry) error {
	for _, p := range w.path {
		if strings.EqualFold(p.Local, to.Local) && strings.EqualFold(p.Domain, to.Domain) {
			w.loops++ // dropped silently (directory.md 13.5)
			w.note(to, "", "left out: a loop", nil)
			return nil
		}
	}
	if w.steps++; w.steps > maxSteps || len(w.final)+len(w.failed) >= MaxFinal {
		return w.tooLarge(r, nil)
	}
	r.Address, r.Folder, r.Via = to, "", via
	var err error
	if e != nil {
		err = w.entry(r, d, e)
	} else {
		err = w.address(r)
	}
	if err == nil || w.outage {
		return err
	}
	w.note(to, "", "refused", err)
	w.failed = append(w.failed, failure{r, err})
	return nil
}

// enter puts r's address on the path and returns Via for what comes of it.
// leave takes it off again.
func (w *walk) enter(r mail.Recipient, e *directory.Entry) (via []string, err error) {
	if len(w.path) >= MaxDepth {
		delete(w.seen, e.DN) // there may be a shorter way
		return nil, &tooDeep{e.DN, refuse(r.Address, 550, mail.StatusLoop, "Too many levels of forwarding or lists", nil)}
	}
	w.path = append(w.path, r.Address)
	return append(r.Via[:len(r.Via):len(r.Via)], r.Address.String()), nil
}

func (w *walk) leave() { w.path = w.path[:len(w.path)-1] }

// tooDeep is the failure of an entry that was not expanded because the way to
// it is too long.
type tooDeep struct {
	dn  string
	err error
}

func (e *tooDeep) Error() string { return e.err.Error() }

func (e *tooDeep) Unwrap() error { return e.err }

func (w *walk) add(r mail.Recipient) error {
	if len(w.final)+len(w.failed) >= MaxFinal {
		return w.tooLarge(r, nil)
	}
	if w.final == nil {
		w.final = make([]mail.Recipient, 0, 1)
	}
	w.final = append(w.final, r)
	if w.trace != nil {
		w.note(r.Address, "", "delivery by channel "+string(r.Channel)+" to "+r.NextHop+" "+r.Mailbox, nil)
	}
	return nil
}

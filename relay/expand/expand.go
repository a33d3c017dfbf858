package expand

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/relay/mapping"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Bounds of one expansion.
const (
	MaxDepth = 10           // steps from the address given to a final one (directory.md 13.5)
	MaxFinal = 50_000       // final deliveries of one recipient at RCPT, and results of one search
	maxSteps = 4 * MaxFinal // and final deliveries by the channel reprocess, in pieces
)

// Config is what New needs.
type Config struct {
	Directory directory.Directory
	// Pair finds the pair that a mailHost names; Pairs makes one.
	Pair func(mailHost string) (pair string, ok bool)
	// Hostnames are the names of this relay, as mailRoutingHosts and the
	// mailHost of a group give them.
	Hostnames []string
	// RouteToRoutingHost sends mail for a domain of another relay to the first
	// of its mailRoutingHosts, not to where its name leads.
	RouteToRoutingHost bool
	// Options are delivery options beside, or instead of, those of Options,
	// one each: "#*archive=$U@archive.example".
	Options []string
	// ListLimit is how many members a list may have to be expanded while the
	// client waits, 1,000; ChunkSize is how many are queued at once later, 5,000.
	ListLimit, ChunkSize int
	// Quota and MessageQuota are those of users whose entry leaves them to the
	// system (directory.md 11), in octets and messages; 0: they have none.
	Quota, MessageQuota int64
	// OverQuotaTemporary answers 452 4.2.2 for users whose status is overquota,
	// not 552 5.2.2.
	OverQuotaTemporary bool
	// Texts replace the text of an answer, by the names of Answers.
	Texts map[string]string
	// Guaranteed are channels whose mail is stored however full the mailbox is:
	// those that users submit by, as mailSMTPSubmitChannel names them.
	Guaranteed []string
	// Groups counts in lists of rights the groups whose entries have who posts as a
	// member; Separator stands between user and folder in addresses that are asked
	// about together with them.
	Groups    bool
	Separator string
	// SRS rewrites the reverse-path of mail that is forwarded to other domains;
	// nil: it is kept.
	SRS *SRS
	// Mappings has the mapping tables that lists name; nil: there are none.
	Mappings *mapping.Tables
	// Trim are fields that no list passes on, besides those of its entry.
	Trim []string
	Log  *slog.Logger
	Now  func() time.Time
}

// Expander expands recipients. Any number of goroutines may use it.
type Expander struct {
	cfg     Config
	options []option
	alarms  alarms
}

// New checks cfg.
func New(cfg Config) (*Expander, error) {
	if cfg.Directory == nil || cfg.Pair == nil {
		return nil, errors.New("expand: Directory and Pair are required")
	}
	if cfg.ListLimit == 0 {
		cfg.ListLimit = 1000
	}
	if cfg.ChunkSize == 0 {
		cfg.ChunkSize = 5000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := checkTexts(cfg.Texts); err != nil {
		return nil, err
	}
	options, err := parseOptions(cfg.Options)
	if err != nil {
		return nil, err
	}
	if cfg.SRS != nil {
		if err := cfg.SRS.check(); err != nil {
			return nil, err
		}
	}
	return &Expander{cfg: cfg, options: options, alarms: alarms{log: cfg.Log}}, nil
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
	Depth     int          // 0 for the address given
	Address   mail.Address // what is being expanded
	DN        string       // entry concerned, "" if none
	Rule      string       // section of the directory specification that decided, "" if none
	Attribute string       // attribute that decided, "" if none
	Code      int          // reply code of a refusal, 0 if it is none
	Status    mail.Status  // and its enhanced code
	Text      string       // what was found or done
}

// Rcpt returns the final recipients that r stands for, at least one of them.
// The error is the reply. env says who sends; nil is nobody.
func (x *Expander) Rcpt(ctx context.Context, env *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	return x.Explain(ctx, env, r, nil)
}

// Explain is Rcpt, and tells trace of each step.
func (x *Expander) Explain(ctx context.Context, env *mail.Envelope, r mail.Recipient, trace func(Step)) ([]mail.Recipient, error) {
	w := walk{x: x, ctx: ctx, env: env, trace: trace}
	w.past(&r)
	err := w.start(r)
	if err == nil {
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
	env   *mail.Envelope // nil: nobody sends
	trace func(Step)
	pass  *pass // of the channel reprocess, nil at RCPT

	path   []mail.Address // addresses on the way here
	base   int            // of them, those from before this walk
	steps  int
	seen   map[string]bool // DNs of entries that were expanded, once there is more than one
	final  []mail.Recipient
	failed []failure         // members and forwarding addresses that were refused
	outage bool              // the error in hand is about all of this walk and not one branch
	loops  int               // addresses that were left out because of a loop
	seenBy [2]*sender        // who posts, by envelope and by login, once that was asked
	in     *directory.Groups // groups of who posts by login, once they were asked for
	inErr  error             // why they are not known
	poster []string          // the identities of who posts by login, once they were asked for
	apart  bool              // members of the list in hand get a copy each time they are reached
	copies map[string]bool   // capture addresses that have been used
	caught bool              // the address in hand is nobody's, and whoever owns "@domain" has it
}

// failure is an address on the way that was refused, and why.
type failure struct {
	r   mail.Recipient
	err error
}

// past takes over where r came from when it has been through the channel
// reprocess.
func (w *walk) past(r *mail.Recipient) {
	for _, v := range r.Via {
		if a, err := mail.ParseAddress(v, true); err == nil {
			w.path = append(w.path, a)
		}
	}
	w.base = len(w.path)
}

func (w *walk) start(r mail.Recipient) error {
	if len(w.path) > MaxDepth {
		return w.answer(ansTooDeep, r.Address, nil)
	}
	return w.address(r)
}

// finish adds what goes to the channel reprocess, or finds that nothing is
// left.
func (w *walk) finish(r mail.Recipient) error {
	if len(w.final) > 0 {
		for _, f := range w.failed {
			if w.reached(f.err) {
				continue
			}
			w.final = append(w.final, w.later(f.r, resume{}))
		}
		return nil
	}
	for _, f := range w.failed {
		if !mail.Permanent(f.err) {
			return f.err
		}
	}
	if len(w.failed) > 0 {
		return w.failed[0].err
	}
	return w.nobody(r)
}

// reached reports whether an entry that was too deep on one way has been
// reached by a shorter one.
func (w *walk) reached(err error) bool {
	var deep *tooDeep
	return errors.As(err, &deep) && w.seen[deep.dn]
}

func (w *walk) nobody(r mail.Recipient) error {
	if w.loops > 0 {
		return w.answer(ansLoop, r.Address, nil)
	}
	return w.answer(ansEmpty, r.Address, nil) // RFC 3463 3.3
}

// note tells the trace. It is cheap when there is none.
func (w *walk) note(a mail.Address, dn, text string, err error) {
	w.rule(a, dn, "", "", text, err)
}

// rule tells the trace which rule decided, by which attribute.
func (w *walk) rule(a mail.Address, dn, rule, attribute, text string, err error) {
	if w.trace == nil {
		return
	}
	s := Step{Depth: len(w.path), Address: a, DN: dn, Rule: rule, Attribute: attribute, Text: text}
	if err != nil {
		e := mail.AsError("expand", err)
		s.Code, s.Status, s.Text = e.ReplyCode(), e.Status, text+": "+err.Error()
	}
	w.trace(s)
}

// now reports whether nothing may be put off for its size: this is the channel
// reprocess.
func (w *walk) now() bool { return w.pass != nil }

// top reports whether what is being expanded is the address that this walk
// began with.
func (w *walk) top() bool { return len(w.path) == w.base }

// size is the length of the message, as far as it is known.
func (w *walk) size() int64 {
	switch {
	case w.pass != nil:
		return w.pass.msg.Size
	case w.env != nil:
		return w.env.Size
	}
	return 0
}

// step goes on with address to, for a forward or a member, by way of via.
// entry is its entry when it is known already, in domain d.
func (w *walk) step(r mail.Recipient, to mail.Address, via []string, d *directory.Domain, e *directory.Entry) error {
	for _, p := range w.path {
		if strings.EqualFold(p.Local, to.Local) && strings.EqualFold(p.Domain, to.Domain) {
			w.loops++ // dropped silently (directory.md 13.5)
			w.rule(to, "", "13.5", "", "left out: a loop", nil)
			return nil
		}
	}
	if w.steps++; w.steps > maxSteps || w.full() {
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
	return w.fail(r, err)
}

// fail remembers a branch that was refused.
func (w *walk) fail(r mail.Recipient, err error) error {
	var deep *tooDeep
	if w.pass != nil && !errors.As(err, &deep) {
		return w.pass.refused(w, r, err)
	}
	w.failed = append(w.failed, failure{r, err})
	return nil
}

// full reports whether there is no room for another result.
func (w *walk) full() bool {
	if w.pass != nil {
		return w.pass.total >= maxSteps
	}
	return len(w.final)+len(w.failed) >= MaxFinal
}

// enter puts r's address on the path and returns Via for what comes of it.
// leave takes it off again.
func (w *walk) enter(r mail.Recipient, e *directory.Entry) (via []string, err error) {
	if len(w.path) >= MaxDepth {
		delete(w.seen, e.DN) // there may be a shorter way
		return nil, &tooDeep{e.DN, w.answer(ansTooDeep, r.Address, nil)}
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

// add takes a final delivery.
func (w *walk) add(r mail.Recipient) error {
	if r.Channel == mail.ChannelSMTP && len(r.Via) > 0 && w.x.cfg.SRS != nil {
		var err error
		if r, err = w.forwarded(r); err != nil {
			return err
		}
	}
	return w.result(r)
}

// result takes a final delivery as it is.
func (w *walk) result(r mail.Recipient) error {
	if w.full() {
		return w.tooLarge(r, nil)
	}
	if w.apart && w.env != nil && r.Channel != mail.ChannelReprocess {
		r.Key = mail.NewDeliveryKey(w.env.Origin, w.env.RootID, nameOf(&r)+"\x00"+strings.Join(r.Via, "\x00"))
	}
	if w.trace != nil {
		w.note(r.Address, "", strings.TrimRight("delivery by channel "+string(r.Channel)+" to "+r.NextHop+" "+r.Mailbox, " "), nil)
	}
	if w.pass != nil {
		w.pass.put(r)
		return nil
	}
	if w.final == nil {
		w.final = make([]mail.Recipient, 0, 1)
	}
	w.final = append(w.final, r)
	return nil
}

// putOff sends the address through the channel reprocess, where the rest of
// its stages follow.
func (w *walk) putOff(r mail.Recipient, e *directory.Entry, rule, attribute, why string) error {
	w.rule(r.Address, e.DN, rule, attribute, "put off to the channel reprocess: "+why, nil)
	return w.add(w.later(r, resume{}))
}

// later makes r a recipient of the channel reprocess that goes on as s says.
// Who posted is not forgotten when the envelope no longer tells.
func (w *walk) later(r mail.Recipient, s resume) mail.Recipient {
	if w.pass != nil && s.poster == nil {
		s.poster = w.pass.state.poster
	}
	if s.stage == stageSRS { // nobody is looked up there
		s.optIn = r.OptIn
	}
	r.Channel, r.NextHop, r.Mailbox, r.Folder, r.Quota = mail.ChannelReprocess, "", s.String(), "", nil
	r.Store, r.Welcome, r.Poster, r.OptIn, r.Key = "", "", nil, nil, mail.DeliveryKey{}
	return r
}

// grow makes room for n more results.
func (w *walk) grow(n int) {
	if w.pass == nil {
		w.final = slices.Grow(w.final, n)
	}
}

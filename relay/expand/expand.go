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
)

// Config is what New needs.
type Config struct {
	Directory directory.Directory
	// Pair finds the pair that a mailHost names.
	Pair func(mailHost string) (pair string, ok bool)
	// ListLimit is how many members a list may have to be expanded while the
	// client waits, 1,000.
	ListLimit int
	// Reprocessing reports that the message comes from the channel reprocess.
	Reprocessing func(ctx context.Context) bool
	Log          *slog.Logger
}

// Expander expands recipients. Any number of goroutines may use it.
type Expander struct{ cfg Config }

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
	return &Expander{cfg: cfg}, nil
}

// Rcpt returns the final recipients that r stands for. An empty result means
// that r is accepted and there is nothing to deliver. The error is the reply.
func (x *Expander) Rcpt(ctx context.Context, _ *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	w := walk{x: x, ctx: ctx, now: x.cfg.Reprocessing(ctx)}
	w.path = append(w.path, r.Address.Key())
	if err := w.address(r); err != nil {
		return nil, err
	}
	return w.final, nil
}

// walk is the expansion of one recipient.
type walk struct {
	x     *Expander
	ctx   context.Context
	now   bool     // nothing may be put off
	path  []string // keys of the addresses and DNs on the way here
	final []mail.Recipient
}

func refuse(to mail.Address, code int, status mail.Status, text string, err error) error {
	return &mail.Error{Op: "expand.Rcpt", Rcpt: to, Code: code, Status: status, Reply: text, Err: err}
}

// failed is the answer when the directory could not say.
func failed(to mail.Address, err error) error {
	return refuse(to, 451, mail.StatusDirectoryFailure, "Directory not available, try again later", err)
}

// address expands r.Address.
func (w *walk) address(r mail.Recipient) error {
	if err := w.ctx.Err(); err != nil {
		return failed(r.Address, err)
	}
	name, err := directory.NormalizeDomain(r.Address.Domain)
	if err != nil || strings.HasPrefix(name, "[") {
		return refuse(r.Address, 550, mail.StatusBadDomain, "Domain not known", err)
	}
	d, err := w.x.cfg.Directory.Domain(w.ctx, name)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		r.Channel, r.NextHop = mail.ChannelSMTP, name
		return w.add(r)
	case errors.Is(err, directory.ErrAmbiguous):
		w.x.cfg.Log.Error("domain claimed by more than one organization", "domain", name, "error", err)
		return failed(r.Address, err)
	case err != nil:
		return failed(r.Address, err)
	}
	a := r.Address
	a.Domain = name
	ans, err := w.x.cfg.Directory.Lookup(w.ctx, d, a)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		if s, _ := directory.Effective(d, nil); s != directory.Active {
			return w.status(r, s, "Domain")
		}
		return refuse(r.Address, 550, mail.StatusBadMailbox, "No such user here", nil)
	case err != nil:
		return failed(r.Address, err)
	}
	e, err := w.only(r, ans.Entries)
	if err != nil {
		return err
	}
	r.Folder = ans.Detail
	return w.entry(r, d, e)
}

// only is the entry that remains (directory.md 4.8).
func (w *walk) only(r mail.Recipient, entries []*directory.Entry) (*directory.Entry, error) {
	var left []*directory.Entry
	for _, e := range entries {
		s, _ := directory.Effective(nil, e)
		if len(entries) > 1 && (s == directory.Deleted || s == directory.Removed || e.Kind == directory.User && e.UID == "") {
			continue
		}
		left = append(left, e)
	}
	switch len(left) {
	case 0:
		return nil, refuse(r.Address, 550, mail.StatusBadMailbox, "No such user here", nil)
	case 1:
		return left[0], nil
	}
	w.x.cfg.Log.Error("address belongs to more than one entry", "address", r.Address.String(), "dn", left[0].DN, "other", left[1].DN)
	return nil, refuse(r.Address, 550, mail.StatusAmbiguous, "Address is ambiguous", directory.ErrAmbiguous)
}

// entry expands what belongs to the address.
func (w *walk) entry(r mail.Recipient, d *directory.Domain, e *directory.Entry) error {
	if s, _ := directory.Effective(d, e); s != directory.Active {
		what := "User"
		if e.Kind == directory.Group {
			what = "Group"
		}
		return w.status(r, s, what)
	}
	if e.Kind == directory.Group {
		return w.group(r, e)
	}
	if e.UID == "" {
		w.x.cfg.Log.Error("user without uid", "dn", e.DN)
		return refuse(r.Address, 451, mail.StatusDirectoryFailure, "User not set up completely", nil)
	}
	known := false
	for _, option := range e.DeliveryOptions {
		switch strings.ToLower(strings.TrimSpace(option)) {
		case "mailbox":
			known = true
			if err := w.mailbox(r, e); err != nil {
				return err
			}
		case "forward":
			known = true
			if err := w.forward(r, e); err != nil {
				return err
			}
		case "hold":
			known = true
			r := r
			r.Channel = mail.ChannelHold
			if err := w.add(r); err != nil {
				return err
			}
		}
	}
	if !known { // stage 10: the first option is the default
		return w.mailbox(r, e)
	}
	return nil
}

// status answers for a user, group or domain that is not active (directory.md 6).
func (w *walk) status(r mail.Recipient, s directory.Status, what string) error {
	switch s {
	case directory.Hold:
		r.Channel = mail.ChannelHold
		return w.add(r)
	case directory.Disabled:
		return refuse(r.Address, 550, mail.StatusDisabled, what+" disabled", nil)
	case directory.Deleted, directory.Removed:
		return refuse(r.Address, 550, mail.Status{5, 1, 6}, what+" no longer here", nil)
	case directory.OverQuota:
		return refuse(r.Address, 552, mail.Status{5, 2, 2}, "Mailbox full", nil)
	case directory.Unused:
		return refuse(r.Address, 550, mail.StatusBadMailbox, "No such user here", nil)
	}
	return refuse(r.Address, 450, mail.Status{4, 2, 1}, what+" inactive, try again later", nil)
}

func (w *walk) mailbox(r mail.Recipient, e *directory.Entry) error {
	pair, ok := w.x.cfg.Pair(e.MailHost)
	if !ok {
		w.x.cfg.Log.Error("user's mailHost names no pair", "dn", e.DN, "mail_host", e.MailHost)
		return refuse(r.Address, 451, mail.Status{4, 3, 5}, "User's mail store not known, try again later", nil)
	}
	r.Channel, r.NextHop, r.Mailbox, r.Quota = mail.ChannelLMTP, pair, e.Mailbox, e.Quota
	return w.add(r)
}

// forward resolves each forwarding address from the start. A loop leads
// nowhere and is left out; when nothing at all is left it is an error.
func (w *walk) forward(r mail.Recipient, e *directory.Entry) error {
	before := len(w.final)
	var last error
	for _, value := range e.Forwarding {
		to, err := mail.ParseAddress(strings.TrimSpace(value), true)
		if err != nil {
			w.x.cfg.Log.Warn("forwarding address not well formed", "dn", e.DN, "value", value)
			continue
		}
		if err := w.step(r, to, ""); err != nil {
			if !mail.Permanent(err) {
				return err
			}
			last = err
			w.x.cfg.Log.Warn("forwarding address refused", "dn", e.DN, "address", to.String(), "error", err)
		}
	}
	if len(w.final) == before && len(e.DeliveryOptions) == 1 {
		if last == nil {
			last = refuse(r.Address, 550, mail.StatusLoop, "Forwarding leads nowhere", nil)
		}
		return last
	}
	return nil
}

// step goes on with address to, for a forward or a member of list.
func (w *walk) step(r mail.Recipient, to mail.Address, list string) error {
	key := to.Key()
	for _, p := range w.path {
		if p == key {
			return nil // a loop: dropped silently (directory.md 13.5)
		}
	}
	if len(w.path) > MaxDepth {
		return refuse(r.Address, 550, mail.StatusLoop, "Too many levels of forwarding or lists", nil)
	}
	next := r
	next.Via = append(r.Via[:len(r.Via):len(r.Via)], r.Address.String())
	next.Address, next.Folder = to, ""
	if list != "" {
		next.ListName = list
	}
	w.path = append(w.path, key)
	err := w.address(next)
	w.path = w.path[:len(w.path)-1]
	return err
}

func (w *walk) add(r mail.Recipient) error {
	if len(w.final) >= MaxFinal {
		return refuse(r.Address, 550, mail.Status{5, 5, 3}, "List too large", nil)
	}
	w.final = append(w.final, r)
	return nil
}

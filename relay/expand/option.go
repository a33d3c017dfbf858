package expand

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Options are the delivery options that there always are, as the old servers
// write them: prefixes, name, "=" and a template (directory.md 8). The first
// is a user's default, the second a group's.
var Options = []string{
	`#*mailbox=@$X.LMTP:$M%$\$2I$_+$2S@lmtpcs-daemon`,
	`#&members=*`,
	`#&@members_offline=*`,
	`#/hold=@hold-daemon:$A`,
	`#program=$M%$P@pipe-daemon`,
	`#forward=**`,
	`#*^!autoreply=$M+$D@bitbucket`,
	`#*native=$M@native-daemon`,
	`#*unix=$M@native-daemon`,
	`#&file=+$F@native-daemon`,
}

// does is what an option's template comes to.
type does uint8

const (
	doTemplate does = iota // whatever it produces
	doMailbox              // the pair: the usual template of mailbox
	doMembers
	doForward
	doHold
	doAutoreply
	doNothing // a channel that this release has not
)

// option is one delivery option.
type option struct {
	name          string
	users, groups bool // whom it is for
	later         bool // @ and $: through the channel reprocess
	dated         bool // ^: between vacationStartDate and vacationEndDate
	anywhere      bool // #: whatever the mailHost
	held          bool // /
	does          does
	template      template
}

const maxOptions = 64

// parseOptions reads Options and more; a later one of the same name counts.
func parseOptions(more []string) ([]option, error) {
	var out []option
	for _, text := range slices.Concat(Options, more) {
		o, err := parseOption(text)
		if err != nil {
			return nil, fmt.Errorf("expand: delivery option %q: %w", text, err)
		}
		if i := slices.IndexFunc(out, func(have option) bool { return have.name == o.name }); i >= 0 {
			out[i] = o
		} else {
			out = append(out, o)
		}
	}
	if len(out) > maxOptions {
		return nil, fmt.Errorf("expand: %d delivery options, at most %d", len(out), maxOptions)
	}
	return out, nil
}

func parseOption(text string) (o option, err error) {
	left, body, ok := strings.Cut(text, "=")
	if !ok {
		return o, fmt.Errorf("no template")
	}
	body = strings.TrimSpace(body)
	left = strings.TrimSpace(left)
	auto := false
	for left != "" {
		switch left[0] {
		case '*':
			o.users = true
		case '&':
			o.groups = true
		case '@', '$':
			o.later = true
		case '^':
			o.dated = true
		case '#':
			o.anywhere = true
		case '/':
			o.held = true
		case '!':
			auto = true
		default:
			o.name, left = strings.ToLower(left), ""
			continue
		}
		left = left[1:]
	}
	if o.name == "" || strings.ContainsAny(o.name, " ,=\t") {
		return o, fmt.Errorf("no name")
	}
	if !o.users && !o.groups {
		o.users, o.groups = true, true
	}
	switch {
	case auto:
		o.does = doAutoreply
	case body == "*":
		o.does, o.users = doMembers, false
	case body == "**":
		o.does = doForward
	case o.held:
		o.does = doHold
	case strings.HasSuffix(body, "@native-daemon"), strings.HasSuffix(body, "@pipe-daemon"):
		o.does = doNothing
	case o.name == "mailbox" && strings.HasSuffix(Options[0], "="+body):
		o.does, o.groups = doMailbox, false
	}
	if !o.users && !o.groups {
		return o, fmt.Errorf("for nobody: members are a group's, a mailbox is a user's")
	}
	if o.does == doTemplate {
		o.template, err = parseTemplate(body)
	}
	return o, err
}

// bound reports whether one of the entry's options is carried out by its
// mailHost only.
func (w *walk) bound(r mail.Recipient, e *directory.Entry) bool {
	return w.some(r, e, func(o *option) bool { return !o.anywhere })
}

// needsHost reports whether one of the entry's options is bound to its
// mailHost, or the entry is a user who has a mailbox.
func (w *walk) needsHost(r mail.Recipient, e *directory.Entry) bool {
	return w.some(r, e, func(o *option) bool { return !o.anywhere || o.does == doMailbox })
}

// some reports whether one of the entry's options is as is says.
func (w *walk) some(r mail.Recipient, e *directory.Entry, is func(*option) bool) bool {
	set := w.active(r, e)
	for i := range w.x.options {
		if set&(1<<i) != 0 && is(&w.x.options[i]) {
			return true
		}
	}
	return false
}

// active reads mailDeliveryOption: stages 8 to 11. Values that are unknown, or
// not for this kind of entry, are ignored; with none left the default applies.
// What is outside of its dates is dropped after that.
func (w *walk) active(r mail.Recipient, e *directory.Entry) (set uint64) {
	for _, v := range e.DeliveryOptions {
		for v != "" {
			var one string
			one, v, _ = strings.Cut(v, ",")
			one = strings.TrimSpace(one)
			i := slices.IndexFunc(w.x.options, func(o option) bool { return strings.EqualFold(o.name, one) })
			switch {
			case i < 0:
				w.rule(r.Address, e.DN, "8.1", "mailDeliveryOption", "ignored, not known: "+one, nil)
			case e.Kind == directory.User && !w.x.options[i].users, e.Kind == directory.Group && !w.x.options[i].groups:
				w.rule(r.Address, e.DN, "8.1", "mailDeliveryOption", "ignored, not for a "+e.Kind.String()+": "+one, nil)
			case w.x.options[i].does == doNothing:
				w.x.alarms.raise("delivery option leads to a channel that this release has not: "+one, e.DN, r.Address, nil)
				w.rule(r.Address, e.DN, "8.1", "mailDeliveryOption", "ignored, no such channel: "+one, nil)
			default:
				set |= 1 << i
			}
		}
	}
	if set == 0 {
		set = 1
		if e.Kind == directory.Group {
			set = 2
		}
	}
	for i := range w.x.options {
		if o := &w.x.options[i]; set&(1<<i) != 0 && o.dated && !w.present(e) {
			w.rule(r.Address, e.DN, "5/11", "vacationStartDate", "dropped, outside its dates: "+o.name, nil)
			set &^= 1 << i
		}
	}
	return set
}

// present reports whether now is between the entry's dates, both inclusive
// (directory.md 10).
func (w *walk) present(e *directory.Entry) bool {
	if e.Start.IsZero() && e.End.IsZero() {
		return true
	}
	now := w.x.cfg.Now()
	return !now.Before(e.Start) && (e.End.IsZero() || now.Unix() <= e.End.Unix())
}

// produce is stage 16, for the options in set, in the order of the table.
func (w *walk) produce(r mail.Recipient, d *directory.Domain, e *directory.Entry, set uint64) error {
	all := set
	deferred := false
	for i := range w.x.options {
		o := &w.x.options[i]
		if set&(1<<i) == 0 {
			continue
		}
		if o.held {
			w.rule(r.Address, e.DN, "8.2", "mailDeliveryOption", "held: "+o.name, nil)
			r.Channel, r.NextHop, r.Folder = mail.ChannelHold, "", ""
			return w.add(r)
		}
		deferred = deferred || o.later
	}
	if e.Kind == directory.Group {
		// Two ways to expand the members are one.
		done := false
		for i := range w.x.options {
			if set&(1<<i) == 0 || w.x.options[i].does != doMembers {
				continue
			}
			if !done {
				offline := w.x.options[i].later && !w.both(set)
				if err := w.group(r, d, e, offline); err != nil {
					return err
				}
			}
			done = true
			set &^= 1 << i
		}
	} else if deferred && !(w.now() && w.top()) {
		return w.putOff(r, e, "8.2", "mailDeliveryOption", "the option says so")
	}
	if set == 0 && e.Kind != directory.Group {
		return w.misconfigured(r.Address, e.DN, "no delivery option is left", nil)
	}
	return w.produceUser(r, d, e, set, all)
}

// both reports whether members are among set without a detour.
func (w *walk) both(set uint64) bool {
	for i := range w.x.options {
		if o := &w.x.options[i]; set&(1<<i) != 0 && o.does == doMembers && !o.later {
			return true
		}
	}
	return false
}

func (w *walk) produceUser(r mail.Recipient, d *directory.Domain, e *directory.Entry, set, all uint64) error {
	answered, stored := false, false
	for i := range w.x.options {
		if set&(1<<i) != 0 {
			answered = answered || w.x.options[i].does == doAutoreply
			stored = stored || w.x.options[i].does == doMailbox
		}
	}
	if answered {
		away, err := w.away(r, d, e)
		if err != nil {
			return err
		}
		if !stored {
			if err := w.answerOnly(r, d, e, away, all); err != nil {
				return err
			}
		}
		r.Autoreply = away
	}
	for i := range w.x.options {
		o := &w.x.options[i]
		if set&(1<<i) == 0 {
			continue
		}
		var err error
		switch o.does {
		case doMailbox:
			err = w.mailbox(r, d, e, "")
		case doForward:
			f := r
			f.Autoreply = nil
			err = w.forward(f, e, all == 1<<i)
		case doTemplate:
			err = w.templated(r, d, e, o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answerOnly is autoreply without mailbox: the mail is answered by the user's
// pair, which remembers to whom, and not stored.
func (w *walk) answerOnly(r mail.Recipient, d *directory.Domain, e *directory.Entry, away *mail.Autoreply, all uint64) error {
	if away == nil && bits.OnesCount64(all) > 1 {
		return nil // whatever else there is
	}
	if away == nil {
		w.rule(r.Address, e.DN, "8.1", "mailDeliveryOption", "nothing to answer: accepted and discarded", nil)
		r.Channel, r.NextHop = mail.ChannelDiscard, ""
		return w.add(r)
	}
	away.Only = true
	r.Autoreply = away
	return w.mailbox(r, d, e, "")
}

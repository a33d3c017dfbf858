package expand

import (
	"crypto/subtle"
	"errors"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// verdict is what the rules of a list say about a message.
type verdict uint8

const (
	postYes      verdict = iota
	postLater            // the message must be seen
	postModerate         // for the moderators only
)

// policy is mgrpBroadcasterPolicy.
type policy struct {
	login    bool // somebody must have logged in
	byLogin  bool // who has logged in counts, not the reverse-path
	password bool // the password must be there
	or       bool // one check that is passed is enough
}

func (w *walk) policy(r mail.Recipient, e *directory.Entry) policy {
	var p policy
	for _, word := range e.List.Policy {
		switch strings.ToUpper(word) {
		case "SMTP_AUTH_REQUIRED", "AUTH_REQ":
			p.login, p.byLogin = true, true
		case "SMTP_AUTH_USED", "AUTH_USED":
			p.byLogin = true
		case "PASSWORD_REQUIRED", "PASSWD_REQUIRED", "PASSWD_REQ":
			p.password = true
		case "OR":
			p.or = true
		case "AND":
			p.or = false
		default:
			w.x.alarms.raise("policy of a list has an unknown word: "+word, e.DN, r.Address, nil)
		}
	}
	return p
}

// outcome is what one check says.
type outcome uint8

const (
	neutral outcome = iota // it does not apply, or found nothing to object to
	passed
	failed
	undecided // the message must be seen
)

// check is one row of directory.md 13.2.
type check struct {
	row, attribute, answer string
	final                  bool // a failure counts whatever else is passed
}

// The checks, in the order of the rows 3 to 9.
const (
	checkLogin = iota
	checkAllowedDomain
	checkDisallowedDomain
	checkAllowed
	checkDisallowed
	checkSize
	checkAttachments
	checkPassword
)

var checks = [...]check{
	checkLogin:            {"13.2/3", "mgrpBroadcasterPolicy", ansAuth, false},
	checkAllowedDomain:    {"13.2/4", "mgrpAllowedDomain", ansDomain, false},
	checkDisallowedDomain: {"13.2/5", "mgrpDisallowedDomain", ansDomain, false},
	checkAllowed:          {"13.2/6", "mgrpAllowedBroadcaster", ansSender, false},
	checkDisallowed:       {"13.2/7", "mgrpDisallowedBroadcaster", ansSender, false},
	checkSize:             {"13.2/8", "mgrpMsgMaxSize", ansListSize, true},
	checkAttachments:      {"13.2/8", "posternMaxAttachments", ansAttachments, true},
	checkPassword:         {"13.2/9", "mgrpAuthPassword", ansPassword, false},
}

// do makes a check. It is no table of functions: through one, whoever is being
// expanded would move to the heap, for everybody.
func (p *posting) do(w *walk, i int) (outcome, error) {
	switch i {
	case checkLogin:
		return p.login(w), nil
	case checkAllowedDomain:
		return p.allowedDomain(w)
	case checkDisallowedDomain:
		return failsIf(anyGlob(p.l.DisallowedDomains, p.sender.address.Domain)), nil
	case checkAllowed:
		return p.allowed(w)
	case checkDisallowed:
		return p.disallowed(w)
	case checkSize:
		return p.size(w), nil
	case checkAttachments:
		return p.attachments(w), nil
	}
	return p.password(w), nil
}

func failsIf(yes bool) outcome {
	if yes {
		return failed
	}
	return neutral
}

// posting is one message that is to be posted to one list.
type posting struct {
	r        mail.Recipient
	e        *directory.Entry
	l        *directory.List
	policy   policy
	sender   *sender
	approved bool // by the list's password
}

// mayPost evaluates the rules of the list e in the order of directory.md 13.2.
// The error is the refusal.
func (w *walk) mayPost(r mail.Recipient, e *directory.Entry) (verdict, error) {
	p := &posting{r: r, e: e, l: e.List, policy: w.policy(r, e)}
	var err error
	if p.sender, err = w.sender(r, p.policy.byLogin); err != nil {
		return 0, err
	}
	var first *check // that has failed
	success, later := false, false
	for i := range checks {
		c := &checks[i]
		o, err := p.do(w, i)
		if err != nil {
			return 0, err
		}
		if o == neutral {
			continue
		}
		w.rule(r.Address, e.DN, c.row, c.attribute, [...]string{"", "passed", "not passed", "to be checked with the message"}[o], nil)
		switch {
		case o == passed:
			success = true
		case o == undecided:
			later = true
		case first == nil || c.final:
			first = c
		}
		if o == failed && (!p.policy.or || c.final) {
			return p.refuse(w, c)
		}
	}
	switch {
	case first != nil && !success && !later:
		return p.refuse(w, first)
	case later:
		return postLater, nil
	}
	return p.moderated(w)
}

// refuse is what a failed check leads to: a refusal, or the moderators.
func (p *posting) refuse(w *walk, c *check) (verdict, error) {
	if p.l.RejectAction == "tomoderator" && len(p.l.Moderators) > 0 {
		return p.moderated(w)
	}
	err := w.answer(c.answer, p.r.Address, nil)
	if p.l.RejectText != "" {
		mail.AsError("", err).Reply = p.l.RejectText
	}
	return 0, err
}

// moderated is row 10.
func (p *posting) moderated(w *walk) (verdict, error) {
	if len(p.l.Moderators) == 0 || p.approved {
		return postYes, nil
	}
	o, err := p.among(w, "mgrpModerator", p.l.Moderators)
	switch {
	case err != nil:
		return 0, err
	case o == undecided:
		return postLater, nil
	case o == passed:
		w.rule(p.r.Address, p.e.DN, "13.2/10", "mgrpModerator", "from a moderator", nil)
		return postYes, nil
	}
	return postModerate, nil
}

// among says whether the sender is one of those that the values of an attribute
// stand for: passed, or neutral; failed when a value is no URL that can be used.
func (p *posting) among(w *walk, attribute string, values []string) (outcome, error) {
	in, err := w.among(p.r, p.e, values, p.sender)
	switch {
	case errors.Is(err, errLater):
		return undecided, nil
	case errors.Is(err, errBadURL):
		w.x.alarms.raise(attribute+" has a value that is no usable URL", p.e.DN, p.r.Address, err)
		return failed, nil
	case in && err == nil:
		return passed, nil
	}
	return neutral, err
}

func (p *posting) login(w *walk) outcome {
	switch {
	case !p.policy.login:
		return neutral
	case w.env == nil || w.env.AuthUser == "":
		return failed
	}
	return passed
}

func (p *posting) allowedDomain(w *walk) (outcome, error) {
	if len(p.l.AllowedDomains) == 0 {
		return neutral, nil
	}
	if anyGlob(p.l.AllowedDomains, p.sender.address.Domain) {
		return passed, nil
	}
	// Skipped for those whom the next rows allow by name.
	switch o, err := p.allowed(w); {
	case err != nil || o == passed:
		return neutral, err
	case o == undecided:
		return undecided, nil
	}
	return failed, nil
}

func (p *posting) allowed(w *walk) (outcome, error) {
	if len(p.l.AllowedBroadcasters) == 0 {
		return neutral, nil
	}
	o, err := p.among(w, "mgrpAllowedBroadcaster", p.l.AllowedBroadcasters)
	if o == neutral && err == nil {
		o = failed
	}
	return o, err
}

func (p *posting) disallowed(w *walk) (outcome, error) {
	o, err := p.among(w, "mgrpDisallowedBroadcaster", p.l.DisallowedBroadcasters)
	if o == passed {
		o = failed
	}
	return o, err
}

func (p *posting) size(w *walk) outcome {
	switch {
	case p.l.MaxSize == 0:
		return neutral
	case w.size() > p.l.MaxSize:
		return failed
	case w.pass == nil: // what is announced is not what comes
		return undecided
	}
	return neutral
}

func (p *posting) attachments(w *walk) outcome {
	switch {
	case p.l.MaxAttachments < 0:
		return neutral
	case w.pass == nil:
		return undecided
	}
	return failsIf(attachments(message.Parse(w.pass.msg.Bytes)) > p.l.MaxAttachments)
}

// attachments counts the parts that are meant as files.
func attachments(p *message.Part) int {
	n := 0
	for _, c := range p.Children {
		n += attachments(c)
	}
	if len(p.Children) > 0 {
		return n
	}
	named := strings.EqualFold(p.Disposition, "attachment") || p.Message != nil && p.Type == "MESSAGE"
	for _, list := range [][]message.Param{p.Params, p.DispParams} {
		for _, q := range list {
			named = named || strings.EqualFold(q.Name, "name") || strings.EqualFold(q.Name, "filename")
		}
	}
	if named {
		n++
	}
	return n
}

// password is row 9. A list with moderators that does not demand its password
// takes it as their approval.
func (p *posting) password(w *walk) outcome {
	demanded := p.policy.password || p.l.Password != "" && len(p.l.Moderators) == 0
	switch {
	case p.l.Password == "" && !demanded:
		return neutral
	case w.pass == nil:
		return undecided
	}
	msg := w.pass.msg.Bytes
	given, _ := message.Get(msg[:message.HeaderLen(msg)], "Approved")
	if p.l.Password != "" && subtle.ConstantTimeCompare(given, []byte(p.l.Password)) == 1 {
		p.approved = true
		return passed
	}
	return failsIf(demanded)
}

// anyGlob reports whether a domain matches one of the patterns, in which "*"
// stands for any run and "?" or "%" for one character, without case.
func anyGlob(patterns []string, domain string) bool {
	for _, p := range patterns {
		if glob(strings.ToLower(p), strings.ToLower(domain)) {
			return true
		}
	}
	return false
}

// glob is a match in time linear in len(p)*len(s).
func glob(p, s string) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == s[j] || p[i] == '?' || p[i] == '%'):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

package autoreply

import (
	"bytes"
	"slices"
	"strings"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// headerOf returns the header block of a message, and whether it is whole. It
// copies no body beyond the longest header.
func headerOf(body [][]byte) (header []byte, whole bool) {
	if len(body) != 1 || len(body[0]) > message.MaxHeader {
		var b []byte
		cut := false
		for _, seg := range body {
			n := min(len(seg), message.MaxHeader+1-len(b))
			cut = cut || n < len(seg)
			b = append(b, seg[:n]...)
		}
		header = b[:message.HeaderLen(b)]
		return header, !cut || bytes.HasSuffix(header, []byte("\r\n\r\n"))
	}
	return body[0][:message.HeaderLen(body[0])], true
}

// refusal says why nobody answers this message, "" when it may be answered.
func (a *Agent) refusal(d *deliver.Delivery, header []byte) string {
	switch why := robot(d.Envelope.ReversePath); {
	case d.Report:
		return "a report"
	case why != "":
		return why
	}
	for f := range message.Fields(header) {
		if why := a.field(string(bytes.ToLower(f.Name)), f.Body); why != "" {
			return why
		}
	}
	return ""
}

// field says why a message with this field is not answered, "" when it may be.
func (a *Agent) field(name string, body []byte) string {
	switch name {
	case "auto-submitted": // RFC 3834 5
		if v := firstWord(body); v != "no" {
			return "Auto-Submitted"
		}
	case "precedence":
		if slices.Contains([]string{"bulk", "list", "junk", "auto_reply"}, firstWord(body)) {
			return "Precedence"
		}
	case "x-auto-response-suppress":
		for v := range strings.SplitSeq(string(bytes.ToLower(message.Unfold(body))), ",") {
			if slices.Contains([]string{"all", "oof", "autoreply"}, strings.TrimSpace(v)) {
				return "X-Auto-Response-Suppress"
			}
		}
	}
	if strings.HasPrefix(name, "list-") { // RFC 2369, RFC 2919
		return "a list's field"
	}
	spam := func(s string) bool { return strings.EqualFold(s, name) }
	if slices.ContainsFunc(a.rules.Load().Spam, spam) && slices.Contains([]string{"yes", "true", "spam"}, firstWord(body)) {
		return "spam"
	}
	return ""
}

// firstWord is the first word of a field's value, in lower case.
func firstWord(body []byte) string {
	v := bytes.ToLower(message.Unfold(body))
	if i := bytes.IndexAny(v, ";,( \t"); i >= 0 {
		v = v[:i]
	}
	return string(v)
}

// robots are local parts behind which no person reads answers (RFC 3834 2,
// RFC 5230 4.6).
var (
	robots = []string{
		"mailer-daemon", "mailer", "daemon", "postmaster", "listserv", "listproc", "majordomo", "mailman",
		"noreply", "no-reply", "no_reply", "donotreply", "do-not-reply", "bounce", "bounces", "owner", "request",
	}
	robotPrefixes = []string{"owner-", "bounce-", "bounces-", "listserv-", "noreply-", "no-reply-"}
	robotSuffixes = []string{"-request", "-owner", "-bounce", "-bounces", "-relay", "-noreply", "-no-reply"}
)

// robot says why a sender is not answered, "" when it may be a person.
func robot(sender mail.Address) string {
	if sender.IsNull() {
		return "null reverse-path"
	}
	local, _, _ := strings.Cut(strings.ToLower(sender.Local), "+")
	local, _, _ = strings.Cut(local, "=") // VERP
	starts := func(p string) bool { return strings.HasPrefix(local, p) }
	ends := func(s string) bool { return strings.HasSuffix(local, s) }
	if slices.Contains(robots, local) || slices.ContainsFunc(robotPrefixes, starts) || slices.ContainsFunc(robotSuffixes, ends) {
		return "sender is a program"
	}
	return ""
}

// personal says why this recipient does not answer, "" when it may.
func personal(r *mail.Recipient, sender mail.Address, named map[string]bool) string {
	a := r.Autoreply
	self := func(me mail.Address) bool { return me.Key() == sender.Key() }
	there := func(me mail.Address) bool { return named[me.Key()] }
	switch {
	case strings.TrimSpace(a.Text) == "":
		return "nothing to say"
	case r.ListName != "":
		return "came by a list"
	case self(a.From) || slices.ContainsFunc(a.Me, self):
		return "sent by the person itself"
	case !there(a.From) && !slices.ContainsFunc(a.Me, there):
		return "not addressed to the person"
	}
	return ""
}

// addressees are the addresses in To, Cc, Resent-To and Resent-Cc, as
// mail.Address.Key gives them.
func addressees(header []byte) map[string]bool {
	var to []byte // one field per field, all by one name
	for f := range message.Fields(header) {
		switch strings.ToLower(string(f.Name)) {
		case "to", "cc", "resent-to", "resent-cc":
			to = append(append(to, "To:"...), f.Body...)
			if !bytes.HasSuffix(to, []byte("\n")) {
				to = append(to, "\r\n"...)
			}
		}
	}
	named := map[string]bool{}
	if env := message.Parse(append(to, "\r\n"...)).Envelope; env != nil {
		for _, a := range env.To {
			if a.Mailbox != nil && a.Host != nil {
				named[mail.Address{Local: *a.Mailbox, Domain: *a.Host}.Key()] = true
			}
		}
	}
	return named
}

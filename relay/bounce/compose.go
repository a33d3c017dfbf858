package bounce

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// kind is what a notification is about (mta.md 8.2).
type kind string

const (
	failed    kind = "failed"
	timedOut  kind = "timedout"
	returned  kind = "returned"
	delayed   kind = "delayed"
	delivered kind = "delivered"
	relayed   kind = "relayed"
	expanded  kind = "expanded"
)

// kinds is what each state reports, the gravest first.
var kinds = []struct {
	state   queue.State
	kind    kind
	action  string // RFC 3464 2.3.3
	subject string
	text    string
}{
	{queue.Failed, failed, "failed", "Delivery failed", "Your message could not be delivered to the recipients below. This is final; it will not be tried again."},
	{queue.Returned, returned, "failed", "Delivery stopped by an administrator", "An administrator has stopped the delivery of your message to the recipients below."},
	{queue.TimedOut, timedOut, "failed", "Delivery failed: time limit reached", "Your message could not be delivered in time to the recipients below. It will not be tried again."},
	{queue.Pending, delayed, "delayed", "Delivery delayed", "This is a warning only. You do not need to send your message again. It has not been delivered yet to the recipients below; delivery is still being tried."},
	{queue.Relayed, relayed, "relayed", "Passed on without further report", "Your message was passed on to a system that does not send reports. There will be no further report about the recipients below."},
	{queue.Expanded, expanded, "expanded", "Passed on to a list", "Your message was passed on to the members of the lists below."},
	{queue.Delivered, delivered, "delivered", "Delivered", "Your message was delivered to the recipients below."},
}

// notification is a finished message.
type notification struct {
	id    string
	kind  kind
	date  time.Time
	bytes []byte
	body  mail.BodyType
	utf8  bool
	from  mail.Address
}

// compose makes the notification about rcpts of it, whose octets are msg.
func (b *Bouncer) compose(it *queue.Item, rcpts []queue.Recipient, msg []byte) notification {
	n := notification{id: reportID(it, rcpts), date: it.Envelope.Arrival}
	lead := len(kinds) - 1
	for i := range rcpts {
		if r := &rcpts[i]; r.LastTry.After(n.date) {
			n.date = r.LastTry
		}
		for k := range kinds {
			if kinds[k].state == rcpts[i].State {
				lead = min(lead, k)
			}
		}
	}
	n.kind = kinds[lead].kind
	n.utf8 = needsUTF8(it, rcpts)
	n.from = b.author(rcpts, n.utf8)
	content, whole := b.content(it, kinds[lead].action, msg)
	text := b.text(lead, rcpts)
	status := b.status(it, rcpts, n.utf8)
	eight := !ascii(content) || !ascii(text) || !ascii(status)
	n.body = mail.Body7Bit
	encoding := "7bit"
	if eight {
		n.body, encoding = mail.Body8BitMIME, "8bit"
	}
	boundary := "=_" + n.id
	for bytes.Contains(content, []byte(boundary)) {
		boundary += "_"
	}
	statusType, contentType := "message/delivery-status", "text/rfc822-headers"
	if n.utf8 {
		statusType, contentType = "message/global-delivery-status", "message/global-headers" // RFC 6533
	}
	if whole {
		contentType = "message/rfc822"
		if n.utf8 {
			contentType = "message/global"
		}
	}
	var o bytes.Buffer
	o.Grow(len(content) + 4096)
	o.Write(b.header(it, &n, kinds[lead].subject, boundary, encoding, msg))
	o.WriteString("This is a report in MIME format (RFC 3462).\r\n")
	part(&o, boundary, "text/plain; charset=utf-8", "Notification", encoding, text)
	part(&o, boundary, statusType, "Delivery report", encoding, status)
	part(&o, boundary, contentType, "Your message", encoding, content)
	o.WriteString("\r\n--" + boundary + "--\r\n")
	n.bytes = o.Bytes()
	return n
}

// author is who the notification is from: the address that the domain of all
// these recipients wants, else our own.
func (b *Bouncer) author(rcpts []queue.Recipient, utf8 bool) mail.Address {
	a := rcpts[0].Reports
	for i := range rcpts {
		if rcpts[i].Reports.Key() != a.Key() {
			return b.cfg.From
		}
	}
	if a.IsNull() || !utf8 && !a.IsASCII() {
		return b.cfg.From
	}
	return a
}

// header is the notification's own header, with the empty line.
func (b *Bouncer) header(it *queue.Item, n *notification, subject, boundary, encoding string, msg []byte) []byte {
	h := make([]byte, 0, 1024)
	h = message.AppendField(h, "Date", n.date.UTC().Format(time.RFC1123Z))
	h = message.AppendMailboxField(h, "From", "Mail Delivery System", n.from)
	h = message.AppendMailboxField(h, "To", "", it.Envelope.ReversePath)
	h = message.AppendField(h, "Subject", subject)
	h = message.AppendField(h, "Message-ID", "<"+n.id+"@"+b.cfg.Hostname+">")
	if id, ok := message.Get(msg[:message.HeaderLen(msg)], "Message-ID"); ok && len(id) < 250 && plain(id) {
		h = message.AppendField(h, "References", string(id))
	}
	h = message.AppendField(h, "Auto-Submitted", "auto-replied") // RFC 3834
	h = append(h, "MIME-Version: 1.0\r\nContent-Transfer-Encoding: "...)
	h = append(h, encoding...)
	h = append(h, "\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\""...)
	h = append(h, boundary...)
	return append(h, "\"\r\n\r\n"...)
}

func plain(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(b) > 0
}

func part(o *bytes.Buffer, boundary, contentType, description, encoding string, content []byte) {
	o.WriteString("\r\n--" + boundary + "\r\nContent-Type: " + contentType + "\r\nContent-Description: " + description)
	o.WriteString("\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n")
	o.Write(content)
}

// content is what is returned of the message: all of a failed one, unless the
// sender asked for the header only or it is too large, else the header
// (RFC 3461 4.3 and 6).
func (b *Bouncer) content(it *queue.Item, action string, msg []byte) (content []byte, whole bool) {
	if action == "failed" && it.Envelope.Ret != "HDRS" && int64(len(msg)) <= b.cfg.MaxContent {
		return msg, true
	}
	return bytes.TrimSuffix(msg[:message.HeaderLen(msg)], []byte("\r\n")), false
}

// needsUTF8 reports whether the report names addresses beyond ASCII. Its
// reader then is one that has sent SMTPUTF8 mail.
func needsUTF8(it *queue.Item, rcpts []queue.Recipient) bool {
	if !it.Envelope.ReversePath.IsASCII() {
		return true
	}
	for i := range rcpts {
		if !ascii([]byte(shown(&rcpts[i]))) {
			return true
		}
	}
	return false
}

func ascii[T ~[]byte](b T) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// shown is the address by which the sender knows r: what was forwarded or
// expanded stays ours.
func shown(r *queue.Recipient) string {
	if len(r.Via) > 0 {
		return r.Via[0]
	}
	return r.Address.String()
}

// text is the part for people.
func (b *Bouncer) text(lead int, rcpts []queue.Recipient) []byte {
	var o bytes.Buffer
	o.WriteString("This is the mail system at " + b.cfg.Hostname + ".\r\n")
	for k := lead; k < len(kinds); k++ {
		first := true
		for i := range rcpts {
			r := &rcpts[i]
			if r.State != kinds[k].state {
				continue
			}
			if first {
				o.WriteString("\r\n" + wrap(kinds[k].text) + "\r\n")
				first = false
			}
			o.WriteString("\r\n  <" + oneLine(shown(r), 320) + ">\r\n")
			if said := said(r); said != "" {
				o.WriteString("      " + oneLine(said, 400) + "\r\n")
			}
		}
	}
	if kinds[lead].kind == delayed {
		o.WriteString("\r\n" + wrap(fmt.Sprintf("It is tried for %d days from its arrival.", int(b.cfg.Lifetime.Hours()/24))) + "\r\n")
	}
	return o.Bytes()
}

// said is what was answered last about r, for people.
func said(r *queue.Recipient) string {
	if r.State == queue.Delivered || r.State == queue.Relayed || r.State == queue.Expanded || r.Answer.Text == "" {
		return ""
	}
	s := r.Answer.Text
	if st := r.Answer.Status.String(); st != "" && !strings.HasPrefix(s, st) {
		s = st + " " + s
	}
	if r.Answer.Code != 0 {
		s = strconv.Itoa(r.Answer.Code) + " " + s
	}
	if host := remote(r); host != "" {
		s = "host " + host + " said: " + s
	}
	return s
}

// remote is the name of the system outside that answered, "" for our own.
func remote(r *queue.Recipient) string {
	if r.Channel != mail.ChannelSMTP || r.Answer.Code == 0 {
		return ""
	}
	host, _, _ := strings.Cut(r.Answer.Relay, "[")
	return host
}

// status is the message/delivery-status part (RFC 3464 2).
func (b *Bouncer) status(it *queue.Item, rcpts []queue.Recipient, utf8 bool) []byte {
	var o bytes.Buffer
	field := func(name, value string) {
		if value != "" {
			o.WriteString(name + ": " + oneLine(value, 900) + "\r\n")
		}
	}
	field("Original-Envelope-Id", it.Envelope.EnvelopeID)
	field("Reporting-MTA", "dns; "+b.cfg.Hostname)
	field("Arrival-Date", it.Envelope.Arrival.UTC().Format(time.RFC1123Z))
	for i := range rcpts {
		r := &rcpts[i]
		o.WriteString("\r\n")
		if kind, addr, ok := strings.Cut(r.OriginalRecipient, ";"); ok {
			field("Original-Recipient", kind+"; "+addr)
		}
		kind := "rfc822; "
		if utf8 {
			kind = "utf-8; "
		}
		field("Final-Recipient", kind+shown(r))
		field("Action", action(r.State))
		field("Status", statusOf(r).String())
		if host := remote(r); host != "" {
			field("Remote-MTA", "dns; "+host)
		}
		if r.Answer.Code != 0 {
			field("Diagnostic-Code", fmt.Sprintf("smtp; %d %s %s", r.Answer.Code, r.Answer.Status, r.Answer.Text))
		}
		if !r.LastTry.IsZero() {
			field("Last-Attempt-Date", r.LastTry.UTC().Format(time.RFC1123Z))
		}
		if r.State == queue.Pending {
			field("Will-Retry-Until", it.Envelope.Arrival.Add(b.cfg.Lifetime).UTC().Format(time.RFC1123Z))
		}
	}
	return o.Bytes()
}

func action(s queue.State) string {
	for k := range kinds {
		if kinds[k].state == s {
			return kinds[k].action
		}
	}
	return "failed"
}

// statusOf is a status code that fits the action (RFC 3463).
func statusOf(r *queue.Recipient) mail.Status {
	s := r.Answer.Status
	switch r.State {
	case queue.Failed:
		if s[0] != 5 {
			s = mail.Status{5, 0, 0}
		}
	case queue.Returned:
		s = mail.Status{5, 7, 0}
	case queue.TimedOut:
		if s[0] != 4 && s[0] != 5 {
			s = mail.StatusExpired
		}
	case queue.Pending:
		if s[0] != 4 {
			s = mail.Status{4, 0, 0}
		}
	default:
		if s[0] != 2 {
			s = mail.StatusOK
		}
	}
	return s
}

// oneLine is s without line ends and other control characters, cut to n octets.
func oneLine(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// wrap breaks text into lines of at most 72 octets.
func wrap(text string) string {
	var o strings.Builder
	line := 0
	for word := range strings.FieldsSeq(text) {
		if line > 0 && line+1+len(word) > 72 {
			o.WriteString("\r\n")
			line = 0
		} else if line > 0 {
			o.WriteByte(' ')
			line++
		}
		o.WriteString(word)
		line += len(word)
	}
	return o.String()
}

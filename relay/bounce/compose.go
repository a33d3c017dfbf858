package bounce

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"mime/quotedprintable"
	"slices"
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

// kindOf is what a state reports.
type kindOf struct {
	state  queue.State
	kind   kind
	action string // RFC 3464 2.3.3
}

// kinds is what each state reports, the gravest first.
var kinds = []kindOf{
	{queue.Failed, failed, "failed"},
	{queue.Returned, returned, "failed"},
	{queue.TimedOut, timedOut, "failed"},
	{queue.Pending, delayed, "delayed"},
	{queue.Relayed, relayed, "relayed"},
	{queue.Expanded, expanded, "expanded"},
	{queue.Delivered, delivered, "delivered"},
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

// compose makes the notification about rcpts of it, whose octets are msg, for
// somebody who wants languages.
func (b *Bouncer) compose(it *queue.Item, rcpts []queue.Recipient, msg []byte, wanted []string) notification {
	n := notification{id: reportID(it, rcpts), date: outcomeTime(it, rcpts)}
	lead := len(kinds) - 1
	for i := range rcpts {
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
	tag, words := b.cfg().Texts.in(append(wanted, b.cfg().Language))
	text, textEncoding := transfer(b.text(words, it, lead, rcpts))
	status := b.status(it, rcpts, n.utf8)
	eight := !ascii(content) || !ascii(status)
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
	o.Write(b.header(it, &n, words, boundary, encoding, msg))
	o.WriteString("This is a report in MIME format (RFC 3462).\r\n")
	part(&o, boundary, "text/plain; charset=utf-8\r\nContent-Language: "+tag, "Notification", textEncoding, text)
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
			return b.cfg().From
		}
	}
	if a.IsNull() || !utf8 && !a.IsASCII() {
		return b.cfg().From
	}
	return a
}

// header is the notification's own header, with the empty line.
func (b *Bouncer) header(it *queue.Item, n *notification, words language, boundary, encoding string, msg []byte) []byte {
	author := words["author"]
	h := make([]byte, 0, 1024)
	h = message.AppendField(h, "Date", n.date.UTC().Format(time.RFC1123Z))
	h = message.AppendMailboxField(h, "From", author.fill(), n.from)
	h = message.AppendMailboxField(h, "To", "", it.Envelope.ReversePath)
	h = message.AppendField(h, "Subject", words[string(n.kind)].subject)
	h = message.AppendField(h, "Message-ID", "<"+n.id+"@"+b.cfg().Hostname+">")
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
	if action == "failed" && it.Envelope.Ret != "HDRS" && int64(len(msg)) <= b.cfg().MaxContent {
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
func (b *Bouncer) text(words language, it *queue.Item, lead int, rcpts []queue.Recipient) []byte {
	var o bytes.Buffer
	put := func(name string, pairs ...string) {
		if s, ok := words[name]; ok {
			o.WriteString(s.fill(pairs...))
		}
	}
	put("greeting", "host", b.cfg().Hostname)
	for k := lead; k < len(kinds); k++ {
		first := true
		for i := range rcpts {
			r := &rcpts[i]
			if r.State != kinds[k].state {
				continue
			}
			if first {
				o.WriteString("\r\n")
				put(string(kinds[k].kind))
				first = false
			}
			o.WriteString("\r\n  <" + oneLine(shown(r), 320) + ">\r\n")
			switch said, host := said(r), remote(r); {
			case said == "":
			case host == "":
				o.WriteString("      " + oneLine(said, 400) + "\r\n")
			default:
				o.WriteString("      ")
				put("said", "server", host, "reply", said)
			}
		}
	}
	if kinds[lead].kind == delayed {
		o.WriteString("\r\n")
		put("until", "until", b.until(it).Format("2006-01-02 15:04 MST"))
	}
	if _, ok := words["closing"]; ok {
		o.WriteString("\r\n")
		put("closing", "host", b.cfg().Hostname)
	}
	return o.Bytes()
}

// until is when it is given up.
func (b *Bouncer) until(it *queue.Item) time.Time {
	return it.Envelope.Arrival.Add(b.cfg().Lifetime).UTC()
}

// transfer encodes a text for a way of seven bits, so that whole notifications
// are eight bits wide only for what they return.
func transfer(text []byte) (encoded []byte, encoding string) {
	if ascii(text) {
		return text, "7bit"
	}
	var o bytes.Buffer
	w := quotedprintable.NewWriter(&o)
	w.Write(text) // to memory
	w.Close()
	lines := base64.StdEncoding.EncodedLen(len(text)) + 2*(len(text)/57+1)
	if o.Len() <= lines {
		return o.Bytes(), "quoted-printable"
	}
	o.Reset()
	for line := range slices.Chunk(text, 57) {
		o.WriteString(base64.StdEncoding.EncodeToString(line) + "\r\n")
	}
	return o.Bytes(), "base64"
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
	field("Reporting-MTA", "dns; "+b.cfg().Hostname)
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
			field("Will-Retry-Until", b.until(it).Format(time.RFC1123Z))
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
		if s == mail.StatusOverQuota {
			s[0] = 5
		}
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

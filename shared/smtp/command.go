package smtp

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/shared/mail"
)

// splitVerb cuts a command line into its verb in upper case, "" if the engine
// does not know it, and its arguments without outer blanks.
func splitVerb(line []byte) (verb string, args []byte) {
	word := line
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		word, args = line[:i], bytes.Trim(line[i+1:], " \t")
	}
	var up [8]byte
	if len(word) > len(up) {
		return "", args
	}
	for i, c := range word {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		up[i] = c
	}
	return knownVerb(up[:len(word)]), args
}

func knownVerb(b []byte) string {
	for _, v := range verbs {
		if string(b) == v {
			return v
		}
	}
	return ""
}

var verbs = []string{
	"MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT", "NOOP", "EHLO", "LHLO", "HELO",
	"STARTTLS", "AUTH", "VRFY", "EXPN", "HELP", "XCLIENT",
}

// cutPrefixFold is strings.CutPrefix without regard to ASCII case.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// parseBdat reads the arguments of BDAT.
func parseBdat(args string) (n int64, last, ok bool) {
	size, rest, more := strings.Cut(args, " ")
	if more {
		if !strings.EqualFold(strings.TrimSpace(rest), "LAST") {
			return 0, false, false
		}
		last = true
	}
	n, ok = parseDigits(size)
	return n, last, ok
}

// parseDigits reads a number of 1 to 18 digits.
func parseDigits(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, true
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

// isKeyword reports an esmtp-keyword (RFC 5321 4.1.2).
func isKeyword(s string) bool {
	if s == "" || s[0] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' {
			return false
		}
	}
	return true
}

// nextParam cuts the next "KEYWORD[=value]" off s, the keyword in upper case.
// It reports false for anything that is not an esmtp-param.
func nextParam(s string) (key, value string, hasValue bool, rest string, ok bool) {
	word, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimLeft(rest, " ")
	key, value, hasValue = strings.Cut(word, "=")
	if !isKeyword(key) || hasValue && value == "" {
		return "", "", false, rest, false
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c <= ' ' || c == '=' || c >= 0x7f {
			return "", "", false, rest, false
		}
	}
	return strings.ToUpper(key), value, hasValue, rest, true
}

// once remembers the parameters of one command.
type once struct {
	keys [16]string
	n    int
}

// first notes that key was given; it reports false the second time, and when
// there are too many.
func (o *once) first(key string) bool {
	if o.n == len(o.keys) {
		return false
	}
	for _, k := range o.keys[:o.n] {
		if k == key {
			return false
		}
	}
	o.keys[o.n] = key
	o.n++
	return true
}

// mail is the MAIL command.
func (c *conn) mail(args string) {
	switch {
	case !c.hello:
		c.reply(replyHelloFirst)
		return
	case c.tx.open:
		c.reply(replyNested)
		return
	case c.needTLS():
		c.reply(replyTLSFirst)
		return
	case c.srv.away():
		c.reply(replyShutdown)
		return
	case c.transactions >= c.limits.Transactions:
		c.reply(replyEnough)
		return
	}
	path, ok := cutPrefixFold(args, "FROM:")
	if !ok {
		c.reply(replySyntax)
		return
	}
	from, params, err := mail.ParsePath(strings.TrimLeft(path, " "), true)
	if err != nil || params != "" && params[0] != ' ' {
		c.reply(pathReply(replySender, err))
		return
	}
	m := &MailArgs{From: from, Size: -1}
	if r := c.mailParams(m, strings.TrimLeft(params, " ")); r != nil {
		c.reply(r)
		return
	}
	if !m.SMTPUTF8 && !from.IsASCII() {
		c.reply(pathReply(replySender, mail.ErrAddressUTF8))
		return
	}
	if !c.answer("Mail", c.sess.Mail(c.ctx, m), replyMailOK) {
		return
	}
	c.tx = transaction{open: true, smtputf8: m.SMTPUTF8, size: m.Size}
}

// pathReply is base with a text that says what is wrong with a path.
func pathReply(base *Reply, err error) *Reply {
	var text string
	switch {
	case errors.Is(err, mail.ErrAddressUTF8):
		text = "Address needs SMTPUTF8"
	case errors.Is(err, mail.ErrAddressTooLong):
		text = "Address too long"
	case errors.Is(err, mail.ErrAddressControl):
		text = "Control character in address"
	default:
		return base
	}
	return &Reply{Code: base.Code, Status: base.Status, Text: text}
}

// mailParams reads the parameters of MAIL. It returns the refusal, if any.
func (c *conn) mailParams(m *MailArgs, s string) *Reply {
	var seen once
	for s != "" {
		key, value, hasValue, rest, ok := nextParam(s)
		if !ok || !seen.first(key) {
			return replySyntax
		}
		s = rest
		switch key {
		case "SIZE": // RFC 1870
			m.Size, ok = parseDigits(value)
			if ok && m.Size > c.limits.Size {
				return replyTooBig
			}
		case "BODY": // RFC 6152
			m.Body = mail.BodyType(strings.ToUpper(value))
			ok = m.Body == mail.Body7Bit || m.Body == mail.Body8BitMIME
		case "SMTPUTF8": // RFC 6531
			m.SMTPUTF8, ok = true, !hasValue
		case "RET": // RFC 3461 4.3
			m.Ret = strings.ToUpper(value)
			ok = m.Ret == "FULL" || m.Ret == "HDRS"
		case "ENVID": // RFC 3461 4.4
			m.EnvelopeID, ok = decodeXtext(value)
			ok = ok && value != "" && len(value) <= 100 && plain(m.EnvelopeID)
		case "AUTH": // RFC 4954 section 5
			if len(c.cfg.Mechanisms) == 0 {
				return replyUnknownArg
			}
			m.Auth, ok = decodeXtext(value)
			ok = ok && m.Auth != "" && plain(m.Auth)
		default:
			var r *Reply
			if m.Private, r = c.privateParam(m.Private, c.cfg.PrivateMail, key, value, hasValue); r != nil {
				return r
			}
		}
		if !ok {
			return replySyntax
		}
	}
	return nil
}

// privateParam adds one of the private parameters in allowed to set. Values
// travel as xtext.
func (c *conn) privateParam(set map[string]string, allowed []string, key, value string, hasValue bool) (map[string]string, *Reply) {
	if !c.private {
		return set, replyUnknownArg
	}
	for _, k := range allowed {
		if k == key {
			v, ok := decodeXtext(value)
			if !ok {
				return set, replySyntax
			}
			if set == nil {
				set = make(map[string]string, len(allowed))
			}
			set[k] = v
			return set, nil
		}
	}
	return set, replyUnknownArg
}

// rcpt is the RCPT command.
func (c *conn) rcpt(args string) {
	switch {
	case !c.tx.open:
		c.reply(replyMailFirst)
		return
	case c.tx.incoming.chunked:
		c.reply(replySequence)
		return
	}
	path, ok := cutPrefixFold(args, "TO:")
	if !ok {
		c.reply(replySyntax)
		return
	}
	to, params, err := mail.ParsePath(strings.TrimLeft(path, " "), c.tx.smtputf8)
	if err != nil || to.IsNull() || params != "" && params[0] != ' ' {
		c.reply(pathReply(replyRecipient, err))
		return
	}
	r := &RcptArgs{To: to}
	if refused := c.rcptParams(r, strings.TrimLeft(params, " ")); refused != nil {
		c.reply(refused)
		return
	}
	if c.tx.rcpts >= c.limits.Recipients {
		c.reply(replyTooManyRcpt)
		return
	}
	if c.answer("Rcpt", c.sess.Rcpt(c.ctx, r), replyRcptOK) {
		c.tx.rcpts++
	}
}

// rcptParams reads the parameters of RCPT. It returns the refusal, if any.
func (c *conn) rcptParams(r *RcptArgs, s string) *Reply {
	var seen once
	for s != "" {
		key, value, hasValue, rest, ok := nextParam(s)
		if !ok || !seen.first(key) {
			return replySyntax
		}
		s = rest
		switch key {
		case "NOTIFY":
			r.Notify, ok = parseNotify(value)
		case "ORCPT":
			r.OriginalRecipient, ok = parseOrcpt(value)
		default:
			var refused *Reply
			if r.Private, refused = c.privateParam(r.Private, c.cfg.PrivateRcpt, key, value, hasValue); refused != nil {
				return refused
			}
		}
		if !ok {
			return replySyntax
		}
	}
	return nil
}

// parseNotify reads the NOTIFY parameter (RFC 3461 4.1).
func parseNotify(s string) (mail.Notify, bool) {
	var n mail.Notify
	for word := range strings.SplitSeq(s, ",") {
		var bit mail.Notify
		switch strings.ToUpper(word) {
		case "NEVER":
			bit = mail.NotifyNever
		case "SUCCESS":
			bit = mail.NotifySuccess
		case "FAILURE":
			bit = mail.NotifyFailure
		case "DELAY":
			bit = mail.NotifyDelay
		default:
			return 0, false
		}
		if n&bit != 0 {
			return 0, false
		}
		n |= bit
	}
	if n&mail.NotifyNever != 0 && n != mail.NotifyNever {
		return 0, false
	}
	return n, true
}

// maxOrcpt is the longest ORCPT (RFC 3461 4.2).
const maxOrcpt = 500

// parseOrcpt reads the ORCPT parameter, "type;xtext" (RFC 3461 4.2).
func parseOrcpt(s string) (string, bool) {
	kind, addr, ok := strings.Cut(s, ";")
	if !ok || !isKeyword(kind) || addr == "" || len(s) > maxOrcpt {
		return "", false
	}
	addr, ok = decodeXtext(addr)
	return kind + ";" + addr, ok
}

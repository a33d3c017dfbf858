package milter

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// The texts are Postfix's.
var (
	replyReject   = &smtp.Reply{Code: 550, Status: mail.StatusRefused, Text: "Command rejected"}
	replyTempfail = &smtp.Reply{Code: 451, Status: mail.Status{4, 7, 1}, Text: "Service unavailable - try again later"}
	replyShutdown = &smtp.Reply{Code: 421, Status: mail.Status{4, 7, 0}, Text: "Server closing connection", Close: true}
)

// maxLines is how many lines a reply may have (MAXREPLYLINES of libmilter).
const maxLines = 32

// decision is what a filter wants to become of a client, a recipient or a message:
// one of the codes respContinue, respAccept, respDiscard, respSkip, or a refusal.
type decision struct {
	code  byte
	reply *smtp.Reply // nil: no refusal
}

// decide reads the answer to an event.
func decide(code byte, data []byte) (decision, error) {
	d := decision{code: code}
	switch code {
	case respAccept, respContinue, respDiscard, respSkip:
	case respReject:
		d.reply = replyReject
	case respTempfail:
		d.reply = replyTempfail
	case respShutdown:
		d.reply = replyShutdown
	case respReply:
		var err error
		d.reply, err = parseReply(data)
		return d, err
	case respConnFail:
		return d, fmt.Errorf("the filter says that it failed")
	default:
		return d, fmt.Errorf("answer %q is not one", code)
	}
	if len(data) != 0 {
		return d, fmt.Errorf("answer %q has %d octets too many", code, len(data))
	}
	return d, nil
}

// parseReply reads "550 5.7.9 text", also of several lines. One that cannot be read
// is the usual refusal of its class; without a class it is an error.
func parseReply(data []byte) (*smtp.Reply, error) {
	data, _, ended := bytes.Cut(data, []byte{0})
	if !ended || len(data) == 0 || data[0] != '4' && data[0] != '5' {
		return nil, fmt.Errorf("reply %.40q has no class", data)
	}
	usual := replyTempfail
	if data[0] == '5' {
		usual = replyReject
	}
	r := &smtp.Reply{}
	lines := strings.Split(strings.TrimRight(string(data), "\r\n"), "\n")
	if len(lines) > maxLines {
		return usual, nil
	}
	for i, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		code, rest, ok := replyCode(line, i == len(lines)-1)
		if !ok || i > 0 && code != r.Code {
			return usual, nil
		}
		word, text, _ := strings.Cut(rest, " ")
		if status, ok := mail.ParseStatus(word); ok {
			if status[0] != code/100 || i > 0 && status != r.Status {
				return usual, nil
			}
			r.Status, rest = status, text
		}
		if i > 0 {
			r.Text += "\n"
		}
		r.Code, r.Text = code, r.Text+printable(percents(rest))
	}
	if strings.Trim(r.Text, "\n ") == "" {
		r.Text = usual.Text
	}
	r.Close = r.Code == 421
	return r, nil
}

// replyCode splits a line of a reply. All but the last have a hyphen.
func replyCode(line string, last bool) (code int, rest string, ok bool) {
	if len(line) < 3 {
		return 0, "", false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, "", false
		}
		code = code*10 + int(c-'0')
	}
	if rest = line[3:]; rest == "" {
		return code, "", last
	}
	if sep := rest[0]; sep != ' ' && (sep != '-' || last) || sep == ' ' && !last {
		return 0, "", false
	}
	return code, rest[1:], true
}

// percents undoes what filters do because Sendmail takes a reply as a format: "%%"
// is "%", a single one is dropped, as in Postfix.
func percents(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i++; i == len(s) {
				break
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// printable replaces control octets and what is no UTF-8: the text of a filter
// goes into replies, logs and the operator's list of held mail.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}

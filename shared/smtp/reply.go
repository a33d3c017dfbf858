package smtp

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/mail"
)

// maxReplyText is how much of one line of a reply is sent; RFC 5321 4.5.3.1.5
// allows 512 octets with code and CRLF.
const maxReplyText = 480

// The replies that the engine itself gives.
var (
	replyOK          = &Reply{Code: 250, Status: mail.StatusOK, Text: "OK"}
	replyMailOK      = &Reply{Code: 250, Status: mail.Status{2, 1, 0}, Text: "OK"}
	replyRcptOK      = &Reply{Code: 250, Status: mail.StatusDelivered, Text: "OK"}
	replyReset       = &Reply{Code: 250, Status: mail.StatusOK, Text: "Reset"}
	replyData        = &Reply{Code: 354, Text: "End data with <CR><LF>.<CR><LF>"}
	replyBye         = &Reply{Code: 221, Status: mail.StatusOK, Text: "Bye", Close: true}
	replyVerify      = &Reply{Code: 252, Status: mail.Status{2, 5, 0}, Text: "Cannot verify, but will accept the message and try to deliver it"}
	replyHelp        = &Reply{Code: 214, Status: mail.StatusOK, Text: "Commands: EHLO HELO LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP AUTH STARTTLS QUIT"}
	replyStartTLS    = &Reply{Code: 220, Status: mail.StatusOK, Text: "Ready to start TLS"}
	replyAuthOK      = &Reply{Code: 235, Status: mail.Status{2, 7, 0}, Text: "Authenticated"}
	replyNoAnswer    = &Reply{Code: 451, Status: mail.StatusNotServing, Text: "Temporary failure, try again later"}
	replyUnknown     = &Reply{Code: 500, Status: mail.StatusSyntax, Text: "Command not recognised"}
	replyLongLine    = &Reply{Code: 500, Status: mail.StatusSyntax, Text: "Line too long"}
	replyBareLine    = &Reply{Code: 500, Status: mail.StatusSyntax, Text: "Bare CR, bare LF or NUL in command"}
	replySyntax      = &Reply{Code: 501, Status: mail.StatusBadParameter, Text: "Syntax error in parameters"}
	replyNoArgs      = &Reply{Code: 501, Status: mail.StatusBadParameter, Text: "No parameters allowed"}
	replyUnknownArg  = &Reply{Code: 555, Status: mail.StatusBadParameter, Text: "Parameter not recognised"}
	replySender      = &Reply{Code: 501, Status: mail.StatusBadSenderSyntax, Text: "Bad sender address syntax"}
	replyRecipient   = &Reply{Code: 501, Status: mail.StatusBadSyntax, Text: "Bad recipient address syntax"}
	replyDisabled    = &Reply{Code: 502, Status: mail.StatusInvalidCommand, Text: "Command not implemented"}
	replyHelloFirst  = &Reply{Code: 503, Status: mail.StatusInvalidCommand, Text: "Say hello first"}
	replyMailFirst   = &Reply{Code: 503, Status: mail.StatusInvalidCommand, Text: "Need MAIL first"}
	replyNested      = &Reply{Code: 503, Status: mail.StatusInvalidCommand, Text: "Transaction already begun"}
	replyNoRcpt      = &Reply{Code: 503, Status: mail.StatusInvalidCommand, Text: "No valid recipients"}
	replySequence    = &Reply{Code: 503, Status: mail.StatusInvalidCommand, Text: "Bad sequence of commands"}
	replyTLSFirst    = &Reply{Code: 530, Status: mail.Status{5, 7, 0}, Text: "Must issue a STARTTLS command first"}
	replyPipelined   = &Reply{Code: 503, Status: mail.StatusInvalidCommand, Text: "Nothing may follow this command before its reply", Close: true}
	replyTooManyRcpt = &Reply{Code: 452, Status: mail.StatusTooManyRcpt, Text: "Too many recipients"}
	replyTooBig      = &Reply{Code: 552, Status: mail.StatusTooBig, Text: "Message size exceeds the limit"}
	replyBigHeader   = &Reply{Code: 552, Status: mail.StatusTooBig, Text: "Message header exceeds the limit"}
	replyLongText    = &Reply{Code: 554, Status: mail.StatusBadContent, Text: "Message has a line that is too long"}
	replyBareData    = &Reply{Code: 550, Status: mail.StatusSyntax, Text: "Message has a bare CR, a bare LF or a NUL"}
	replyErrors      = &Reply{Code: 421, Status: mail.Status{4, 7, 0}, Text: "Too many errors"}
	replyEnough      = &Reply{Code: 421, Status: mail.Status{4, 7, 0}, Text: "Too many transactions in this session"}
	replyTimeout     = &Reply{Code: 421, Status: mail.StatusBadConnection, Text: "Timeout"}
	replySession     = &Reply{Code: 421, Status: mail.StatusBadConnection, Text: "Session too long"}
	replyShutdown    = &Reply{Code: 421, Status: mail.StatusShuttingDown, Text: "Shutting down"}
	replyNoSession   = &Reply{Code: 421, Status: mail.StatusNotServing, Text: "Service not available"}
)

// appendReply prints r as it goes on the wire. Each line of the text gets the
// status; without one, the class's undefined status x.0.0 is printed, as RFC
// 2034 section 4 wants a code on every reply of the classes 2, 4 and 5.
func appendReply(dst []byte, r *Reply, utf8OK bool) []byte {
	code := r.Code
	if code < 200 || code > 599 {
		code = 451
	}
	status := r.Status
	if status[0] != code/100 {
		status = mail.Status{code / 100, 0, 0}
	}
	text := r.Text
	for {
		line, rest, more := strings.Cut(text, "\n")
		dst = strconv.AppendInt(dst, int64(code), 10)
		if more {
			dst = append(dst, '-')
		} else {
			dst = append(dst, ' ')
		}
		if code < 300 || code >= 400 {
			dst = appendStatus(dst, status)
			dst = append(dst, ' ')
		}
		dst = appendText(dst, line, utf8OK)
		dst = append(dst, '\r', '\n')
		if !more {
			return dst
		}
		text = rest
	}
}

func appendStatus(dst []byte, s mail.Status) []byte {
	dst = strconv.AppendInt(dst, int64(s[0]), 10)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, int64(s[1]), 10)
	dst = append(dst, '.')
	return strconv.AppendInt(dst, int64(s[2]), 10)
}

// appendText copies one line of text. Control octets become "?", and so does
// what is not ASCII unless the peer has shown that it reads UTF-8.
func appendText(dst []byte, s string, utf8OK bool) []byte {
	if len(s) > maxReplyText {
		s = s[:maxReplyText]
	}
	if plain(s) {
		return append(dst, s...)
	}
	for _, r := range s {
		switch {
		case r >= ' ' && r < 0x7f:
			dst = append(dst, byte(r))
		case r >= 0xa0 && r != utf8.RuneError && utf8OK:
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, '?')
		}
	}
	return dst
}

// plain reports whether s is printable ASCII.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

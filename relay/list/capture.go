package list

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// Capture is what Wrap tells about the message inside.
type Capture struct {
	To          mail.Address // who gets the copy
	ReversePath mail.Address
	Recipient   string // whose mail it is, or who sent it
	AuthUser    string // who had logged in, "" for nobody
	ID          string // queue id of the message
	Arrival     time.Time
}

// Wrap returns msg inside a report about it, in the form of a delivery status
// notification (RFC 3462, RFC 3464).
func Wrap(msg []byte, c Capture) []byte {
	boundary := "capture-" + c.ID
	for n := 0; bytes.Contains(msg, []byte("--"+boundary)); n++ {
		boundary = "capture-" + c.ID + "-" + strconv.Itoa(n)
	}
	ours := mail.Address{Local: "postmaster", Domain: c.To.Domain}
	out := make([]byte, 0, len(msg)+1024)
	out = message.AppendMailboxField(out, "From", "Message capture", ours)
	out = message.AppendMailboxField(out, "To", "", c.To)
	out = message.AppendField(out, "Subject", "Copy of a message of "+c.Recipient)
	out = message.AppendField(out, "Date", c.Arrival.UTC().Format(time.RFC1123Z))
	out = message.AppendField(out, "Message-ID", "<capture."+c.ID+"@"+c.To.Domain+">")
	out = append(out, "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\""+boundary+"\"\r\n\r\n"...)
	part := func(kind string) {
		out = append(out, "--"+boundary+"\r\nContent-Type: "+kind+"\r\n"...)
	}
	part("text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit")
	out = append(out, "\r\nThe message below was sent by <"+c.ReversePath.String()+">"...)
	if c.AuthUser != "" {
		out = append(out, ", who had logged in as "+c.AuthUser...)
	}
	out = append(out, ".\r\n\r\n"...)
	part("message/delivery-status")
	out = append(out, "\r\nReporting-MTA: dns; "+c.To.Domain+"\r\nArrival-Date: "+c.Arrival.UTC().Format(time.RFC1123Z)+"\r\n\r\n"...)
	out = append(out, "Final-Recipient: rfc822; "+strings.NewReplacer("\r", "", "\n", "").Replace(c.Recipient)+"\r\nAction: relayed\r\nStatus: 2.0.0\r\n\r\n"...)
	encoding := "7bit"
	if !isASCII(string(msg)) {
		encoding = "8bit"
	}
	part("message/rfc822\r\nContent-Transfer-Encoding: " + encoding)
	out = append(append(out, "\r\n"...), msg...)
	return append(out, "\r\n--"+boundary+"--\r\n"...)
}

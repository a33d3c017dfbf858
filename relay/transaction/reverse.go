package transaction

import (
	"bytes"
	"context"
	"strings"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// reversible are the fields whose addresses are made the primary ones of our
// users when they send (directory.md 15).
var reversible = []string{"From", "Sender", "Reply-To", "Resent-From", "Resent-Sender"}

// reverse makes the reverse-path of a message that a user submits the primary
// address. A directory that cannot answer now is no reason to refuse mail.
func (t *Transaction) reverse(ctx context.Context) {
	if t.cfg.Reverse == nil || !t.src.Submitted || t.env.ReversePath.IsNull() {
		return
	}
	t.env.ReversePath = t.primary(ctx, t.env.ReversePath)
}

func (t *Transaction) primary(ctx context.Context, a mail.Address) mail.Address {
	to, err := t.cfg.Reverse(ctx, a)
	if err != nil {
		t.cfg.Log.Warn("address not reversed", "queue_id", t.env.QueueID, "address", a.String(), "error", err)
		return a
	}
	return to
}

// reversed is the header block of msg with primary addresses, and what follows
// it. Without a change it is msg and nothing.
func (t *Transaction) reversed(ctx context.Context, msg []byte) (header, rest []byte) {
	if t.cfg.Reverse == nil || !t.src.Submitted {
		return msg, nil
	}
	n := message.HeaderLen(msg)
	changes := t.changes(ctx, msg[:n])
	if len(changes) == 0 {
		return msg, nil
	}
	var out []byte
	for f := range message.Fields(msg[:n]) {
		raw := f.Raw
		if isReversible(f.Name) {
			name := len(f.Raw) - len(f.Body)
			body := f.Body
			for from, to := range changes {
				body = replaceAddress(body, from, to)
			}
			raw = append(bytes.Clone(f.Raw[:name]), body...)
		}
		out = append(out, raw...)
	}
	// Fields end before the empty line, which belongs to the header block.
	var fields int
	for f := range message.Fields(msg[:n]) {
		fields += len(f.Raw)
	}
	return append(out, msg[fields:n]...), msg[n:]
}

func isReversible(name []byte) bool {
	for _, r := range reversible {
		if strings.EqualFold(r, string(name)) {
			return true
		}
	}
	return false
}

// maxReversed bounds the addresses of one message that are looked up.
const maxReversed = 16

// changes are the addresses of a header that are not primary ones, as they are
// spelt there, and what they become.
func (t *Transaction) changes(ctx context.Context, header []byte) map[string]string {
	var out map[string]string
	asked := 0
	for f := range message.Fields(header) {
		if !isReversible(f.Name) {
			continue
		}
		// The field as if it were From, to have its addresses read.
		p := message.Parse(append([]byte("From:"), f.Body...))
		if p.Envelope == nil {
			continue
		}
		for _, a := range p.Envelope.From {
			if a.Mailbox == nil || a.Host == nil {
				continue
			}
			spelt := *a.Mailbox + "@" + *a.Host
			addr, err := mail.ParseAddress(spelt, true)
			if err != nil || out[spelt] != "" {
				continue
			}
			if asked++; asked > maxReversed {
				return out
			}
			if to := t.primary(ctx, addr); to != addr {
				if out == nil {
					out = map[string]string{}
				}
				out[spelt] = to.String()
			}
		}
	}
	return out
}

// replaceAddress puts to in the place of from, where that is not part of a
// longer address.
func replaceAddress(body []byte, from, to string) []byte {
	var out []byte
	for {
		i := bytes.Index(body, []byte(from))
		if i < 0 {
			return append(out, body...)
		}
		end := i + len(from)
		if i > 0 && addressOctet(body[i-1]) || end < len(body) && (addressOctet(body[end]) || body[end] == '@') {
			out = append(out, body[:end]...)
		} else {
			out = append(append(out, body[:i]...), to...)
		}
		body = body[end:]
	}
}

// addressOctet reports whether c can stand in an address without quotes.
func addressOctet(c byte) bool {
	return c >= 0x80 || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) >= 0
}

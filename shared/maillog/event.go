package maillog

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// Kind names what happened.
type Kind string

// The events of a message's life.
const (
	KindAccepted   Kind = "accepted"   // 250 after DATA, by through or by the queue
	KindRejected   Kind = "rejected"   // a command of a client was refused
	KindQueued     Kind = "queued"     // on this node's disk
	KindDelivered  Kind = "delivered"  // the next hop took it, finally for this system
	KindRelayed    Kind = "relayed"    // handed to a system that sends no reports
	KindDeferred   Kind = "deferred"   // 4yz or no answer: tried again
	KindBounced    Kind = "bounced"    // 5yz or too old: returned to the sender
	KindDiscarded  Kind = "discarded"  // dropped on purpose
	KindHeld       Kind = "held"       // kept until an operator releases it
	KindReleased   Kind = "released"   // no longer held
	KindExpanded   Kind = "expanded"   // a list or alias became its members
	KindNotified   Kind = "notified"   // a delivery status notification was made
	KindRemoved    Kind = "removed"    // every delivery is done, the queue file is gone
	KindConnection Kind = "connection" // a connection was refused before any mail
	KindStored     Kind = "stored"     // a backend committed it
	KindJudged     Kind = "judged"     // a filter refused, held or changed it
)

// Event is one thing that happened to one message or one of its recipients.
// Zero fields are left out.
type Event struct {
	Time        time.Time
	Node        string
	Kind        Kind
	QueueID     string
	ReversePath mail.Address
	NullSender  bool // ReversePath is known to be <>
	Recipient   mail.Address
	Channel     mail.Channel
	Relay       string        // the peer that answered: name, address or both
	Delay       time.Duration // since arrival
	Status      mail.Status
	Code        int    // reply code
	Reply       string // the peer's words or ours
	TraceID     string // root queue id: the same on every node and after every expansion
	Client      string // who gave the message to us
	User        string // who logged in
	MessageID   string // the Message-ID field
	Size        int64
	Recipients  int
}

// Accepted notes that a client was told 250 for a message.
func (l *Log) Accepted(e Event) { l.write(KindAccepted, &e) }

// Rejected notes that a client was refused.
func (l *Log) Rejected(e Event) { l.write(KindRejected, &e) }

// Queued notes that a message is on disk and ours.
func (l *Log) Queued(e Event) { l.write(KindQueued, &e) }

// Delivered notes a final delivery.
func (l *Log) Delivered(e Event) { l.write(KindDelivered, &e) }

// Relayed notes that a system outside took the message for a recipient.
func (l *Log) Relayed(e Event) { l.write(KindRelayed, &e) }

// Deferred notes an attempt that is to be repeated.
func (l *Log) Deferred(e Event) { l.write(KindDeferred, &e) }

// Bounced notes a delivery that was given up.
func (l *Log) Bounced(e Event) { l.write(KindBounced, &e) }

// Discarded notes a message that was dropped on purpose.
func (l *Log) Discarded(e Event) { l.write(KindDiscarded, &e) }

// Held notes a message that waits for an operator.
func (l *Log) Held(e Event) { l.write(KindHeld, &e) }

// Released notes that an operator let a message go on.
func (l *Log) Released(e Event) { l.write(KindReleased, &e) }

// Expanded notes that a recipient became others.
func (l *Log) Expanded(e Event) { l.write(KindExpanded, &e) }

// Notified notes that a report was made for the sender.
func (l *Log) Notified(e Event) { l.write(KindNotified, &e) }

// Removed notes the end of a message in the queue.
func (l *Log) Removed(e Event) { l.write(KindRemoved, &e) }

// Connection notes a connection that was turned away.
func (l *Log) Connection(e Event) { l.write(KindConnection, &e) }

// Stored notes that a backend has committed a delivery.
func (l *Log) Stored(e Event) { l.write(KindStored, &e) }

// Judged notes that a filter, which stands as the relay, did more than to let a
// message pass.
func (l *Log) Judged(e Event) { l.write(KindJudged, &e) }

func (l *Log) write(kind Kind, e *Event) {
	if l == nil {
		return
	}
	e.Kind = kind
	if e.Time.IsZero() {
		e.Time = l.now()
	}
	e.Node = l.cfg.Node
	if l.cfg.Logger != nil && l.cfg.Logger.Enabled(context.Background(), slog.LevelInfo) {
		l.logger(e)
	}
	if l.journal != nil {
		l.journal.add(e)
	}
	if l.cfg.Observe != nil {
		l.cfg.Observe(e)
	}
}

// logger hands e to slog with the keys in their fixed order.
func (l *Log) logger(e *Event) {
	var room [16]slog.Attr
	a := room[:0]
	str := func(key, value string) {
		if value != "" {
			a = append(a, slog.String(key, value))
		}
	}
	str("queue_id", e.QueueID)
	if !e.ReversePath.IsNull() || e.NullSender {
		a = append(a, slog.String("reverse_path", e.ReversePath.String()))
	}
	str("recipient", e.Recipient.String())
	str("channel", string(e.Channel))
	str("relay", e.Relay)
	if e.Delay > 0 {
		a = append(a, slog.Duration("delay", e.Delay))
	}
	str("status", e.Status.String())
	str("trace_id", e.TraceID)
	if e.Code != 0 {
		a = append(a, slog.Int("code", e.Code))
	}
	str("reply", e.Reply)
	str("client", e.Client)
	str("user", e.User)
	str("message_id", e.MessageID)
	if e.Size > 0 {
		a = append(a, slog.Int64("size", e.Size))
	}
	if e.Recipients > 0 {
		a = append(a, slog.Int("recipients", e.Recipients))
	}
	l.cfg.Logger.LogAttrs(context.Background(), slog.LevelInfo, string(e.Kind), a...)
}

// appendJSON appends e as one JSON object and a line end.
func (e *Event) appendJSON(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, '"')
	b = appendField(b, "node", e.Node)
	b = appendField(b, "event", string(e.Kind))
	b = appendField(b, "queue_id", e.QueueID)
	if !e.ReversePath.IsNull() {
		b = appendField(b, "reverse_path", e.ReversePath.String())
	} else if e.NullSender {
		b = append(b, `,"reverse_path":""`...)
	}
	if !e.Recipient.IsNull() {
		b = appendField(b, "recipient", e.Recipient.String())
	}
	b = appendField(b, "channel", string(e.Channel))
	b = appendField(b, "relay", e.Relay)
	if e.Delay > 0 {
		b = append(b, `,"delay":`...)
		b = strconv.AppendFloat(b, e.Delay.Seconds(), 'f', 6, 64)
	}
	b = appendField(b, "status", e.Status.String())
	b = appendField(b, "trace_id", e.TraceID)
	b = appendInt(b, "code", int64(e.Code))
	b = appendField(b, "reply", e.Reply)
	b = appendField(b, "client", e.Client)
	b = appendField(b, "user", e.User)
	b = appendField(b, "message_id", e.MessageID)
	b = appendInt(b, "size", e.Size)
	b = appendInt(b, "recipients", int64(e.Recipients))
	return append(b, '}', '\n')
}

func appendInt(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, key...)
	b = append(b, '"', ':')
	return strconv.AppendInt(b, n, 10)
}

func appendField(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, key...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string; octets that are not UTF-8 become
// U+FFFD, control characters are escaped.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	plain := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < 0x7f {
			continue
		}
		if c >= 0x80 {
			return appendUnicode(append(b, s[plain:i]...), s[i:])
		}
		b = append(b, s[plain:i]...)
		b = appendEscaped(b, c)
		plain = i + 1
	}
	b = append(b, s[plain:]...)
	return append(b, '"')
}

func appendEscaped(b []byte, c byte) []byte {
	if c == '"' || c == '\\' {
		return append(b, '\\', c)
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendUnicode is the rest of appendString once an octet above 127 was seen.
func appendUnicode(b []byte, s string) []byte {
	for _, r := range s { // an invalid octet is U+FFFD
		switch {
		case r < ' ' || r == '"' || r == '\\' || r == 0x7f:
			b = appendEscaped(b, byte(r))
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

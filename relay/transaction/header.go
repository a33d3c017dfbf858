package transaction

import (
	"bytes"
	"sync"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// header is what the relay looks for in a message's header.
type header struct {
	received  int // Received fields
	own       int // of them, those of this relay
	priority  mail.Priority
	messageID string
}

// inspect reads the header block once. host is this relay, in lower case.
func inspect(msg []byte, host string) header {
	var h header
	for f := range message.Fields(msg[:message.HeaderLen(msg)]) {
		switch len(f.Name) {
		case len("Received"):
			if bytes.EqualFold(f.Name, []byte("Received")) {
				h.received++
				if takenBy(f.Body, host) {
					h.own++
				}
			} else if bytes.EqualFold(f.Name, []byte("Priority")) {
				h.priority = priority(message.Unfold(f.Body))
			}
		case len("Message-ID"):
			if h.messageID == "" && bytes.EqualFold(f.Name, []byte("Message-ID")) {
				h.messageID = string(truncate(message.Unfold(f.Body), 256))
			}
		}
	}
	return h
}

// takenBy reports whether a Received field, the way AppendReceived writes it or
// any other, is of host.
func takenBy(body []byte, host string) bool {
	words := bytes.Fields(bytes.ToLower(body))
	for i := 1; i < len(words); i++ {
		if string(words[i-1]) == "by" && string(bytes.TrimRight(words[i], ";,")) == host {
			return true
		}
	}
	return false
}

// priority reads the Priority field (RFC 2156 5.3.6).
func priority(v []byte) mail.Priority {
	switch {
	case bytes.EqualFold(v, []byte("urgent")):
		return mail.Urgent
	case bytes.EqualFold(v, []byte("non-urgent")):
		return mail.NonUrgent
	}
	return mail.Normal
}

func truncate(b []byte, n int) []byte { return b[:min(len(b), n)] }

// traces are buffers for trace fields.
var traces = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

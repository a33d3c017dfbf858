package imapd

import (
	"bytes"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
	"github.com/postern-mail/postern/shared/message"
)

// candidate is the message that a search looks at. Its content is opened when
// a key asks for it.
type candidate struct {
	s    *session
	seq  int
	row  *mailbox.Row
	c    *mailbox.Content
	text []byte // scratch for composed texts
	err  error
}

func (m *candidate) close() {
	if m.c != nil {
		m.c.Close()
		m.c = nil
	}
}

// part is the structure of the message; nil when it cannot be read.
func (m *candidate) part() *message.Part {
	if m.c == nil && m.err == nil {
		m.c, m.err = m.s.view.Message(m.s.ctx, m.row)
	}
	if m.err != nil {
		return nil
	}
	return m.c.Part()
}

// octets reads part of the message; nil when it cannot be read. They are valid
// until the next call.
func (m *candidate) octets(span message.Span) []byte {
	if m.err != nil {
		return nil
	}
	b, err := m.c.Bytes(m.s.ctx, span.Off, span.Len)
	if err != nil {
		m.err = err
		return nil
	}
	return b
}

// match reports whether the message fits the key. After an error in m it is
// false.
func (k *searchKey) match(m *candidate) bool {
	row := m.row
	switch k.op {
	case opAll:
		return true
	case opAnd:
		for i := range k.kids {
			if !k.kids[i].match(m) {
				return false
			}
		}
		return true
	case opOr:
		return k.kids[0].match(m) || k.kids[1].match(m)
	case opNot:
		return !k.kids[0].match(m) && m.err == nil
	case opSet:
		return imapwire.Contains(k.ranges, uint32(m.seq))
	case opFlags:
		return (row.Flags&k.flags != 0) != k.none
	case opKeyword:
		return (row.Flags&k.flags != 0) != k.none
	case opModSeq:
		return row.ModSeq >= k.number
	case opSize:
		return row.Size > k.low && row.Size < k.high
	case opInternalDate:
		return row.InternalDate >= k.low && row.InternalDate < k.high
	case opSaveDate:
		return row.SaveDate >= k.low && row.SaveDate < k.high
	case opEmailID:
		return row.MessageID == k.number
	case opNever:
		return false
	}
	root := m.part()
	if root == nil {
		return false
	}
	return k.matchContent(m, root)
}

func (k *searchKey) matchContent(m *candidate, root *message.Part) bool {
	e := root.Envelope
	if e == nil {
		e = new(message.Envelope)
	}
	switch k.op {
	case opSent:
		if e.Date == nil {
			return false
		}
		t, err := message.ParseDate(*e.Date)
		if err != nil {
			return false
		}
		// RFC 9051 6.4.4: the date as written, disregarding time and zone.
		year, month, mday := t.Date()
		sent := nanos(time.Date(year, month, mday, 0, 0, 0, 0, time.UTC))
		return sent >= k.low && sent < k.high
	case opFrom:
		return m.matchAddresses(e.From, k.needle)
	case opTo:
		return m.matchAddresses(e.To, k.needle)
	case opCc:
		return m.matchAddresses(e.Cc, k.needle)
	case opBcc:
		return m.matchAddresses(e.Bcc, k.needle)
	case opSubject:
		return e.Subject != nil && message.Contains([]byte(message.DecodeWords(*e.Subject)), k.needle)
	case opHeader:
		return k.matchHeader(m.octets(root.Header), k.name)
	case opText:
		if k.matchHeader(m.octets(root.Header), "") {
			return true
		}
	}
	return k.matchBody(m, root)
}

// matchAddresses looks for needle in addresses, each as "name <box@host>".
func (m *candidate) matchAddresses(list []message.Address, needle []byte) bool {
	for i := range list {
		a := &list[i]
		b := m.text[:0]
		if a.Name != nil {
			b = append(append(b, message.DecodeWords(*a.Name)...), ' ')
		}
		b = append(b, '<')
		if a.Mailbox != nil {
			b = append(b, *a.Mailbox...)
		}
		if a.Host != nil {
			b = append(append(b, '@'), *a.Host...)
		}
		b = append(b, '>')
		m.text = b
		if message.Contains(b, needle) {
			return true
		}
	}
	return false
}

// matchHeader looks for the key's string in the fields called name, or in all
// of them with their names.
func (k *searchKey) matchHeader(header []byte, name string) bool {
	for f := range message.Fields(header) {
		value := f.Raw
		if name != "" {
			if !equalFold(f.Name, name) || f.Body == nil {
				continue
			}
			value = f.Body
		}
		value = message.Unfold(value)
		if bytes.Contains(value, []byte("=?")) {
			value = []byte(message.DecodeWords(string(value)))
		}
		if message.Contains(value, k.needle) {
			return true
		}
	}
	return false
}

// matchBody looks for the key's string in the texts below part, decoded, and in
// the headers of messages inside it. It reads no other parts.
func (k *searchKey) matchBody(m *candidate, part *message.Part) bool {
	switch {
	case part.Message != nil:
		return k.matchHeader(m.octets(part.Message.Header), "") || k.matchBody(m, part.Message)
	case len(part.Children) > 0:
		for _, child := range part.Children {
			if k.matchBody(m, child) {
				return true
			}
		}
		return false
	case part.Type != "TEXT":
		return false
	}
	alone := *part
	alone.Body.Off = 0
	text, ok := alone.Text(m.octets(part.Body), 0)
	return ok && m.err == nil && message.Contains(text, k.needle)
}

// bind finds the bits of keywords in the mailbox's table.
func (k *searchKey) bind(keywords []string) {
	for i := range k.kids {
		k.kids[i].bind(keywords)
	}
	if k.op != opKeyword {
		return
	}
	for i, name := range keywords {
		if strings.EqualFold(name, k.name) {
			k.flags = 1 << (len(systemFlags) + i)
		}
	}
}

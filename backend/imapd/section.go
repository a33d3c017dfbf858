package imapd

import (
	"bytes"
	"fmt"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
	"github.com/postern-mail/postern/shared/message"
)

// streamSize is the number of octets from which on they are sent piece by
// piece instead of from one slice.
const streamSize = 256 << 10

// prepare reads of a message what its answer needs, so that what cannot be
// read or decoded is known before the response begins. ok is false when a part
// is in an unknown encoding.
func (f *fetcher) prepare(c *mailbox.Content, bits uint32) (root *message.Part, ok bool, err error) {
	octets := false
	structure := bits&needPart != 0
	for i := range f.items.sections {
		sec := &f.items.sections[i]
		octets = octets || sec.kind != kindSize
		structure = structure || sec.text != textAll || len(sec.path) > 0
	}
	if structure {
		root = c.Part()
	}
	for i := range f.items.sections {
		sec := &f.items.sections[i]
		if sec.kind == kindBody || len(sec.path) == 0 {
			continue
		}
		part := root.Find(sec.path)
		if part == nil || whole(part) {
			continue
		}
		if !decodable(part.Encoding) {
			return root, false, nil
		}
	}
	if octets && c.Size() > 0 {
		_, err = c.Bytes(f.s.ctx, 0, 1)
	}
	return root, true, err
}

// decodable reports whether encoding is one that package message decodes.
func decodable(encoding string) bool {
	probe := message.Part{Encoding: encoding}
	_, err := probe.Decoded(nil, 0)
	return err == nil
}

// whole reports whether a part has parts inside and no encoding of its own
// (RFC 2045 6.4).
func whole(part *message.Part) bool { return len(part.Children) > 0 || part.Message != nil }

// span returns the octets that a section stands for; ok is false when the
// message has no such part.
func (sec *section) span(root *message.Part, size int64) (span message.Span, ok bool) {
	if len(sec.path) == 0 {
		switch sec.text {
		case textAll:
			return message.Span{Len: size}, true
		case textText:
			return message.Span{Off: root.Body.Off, Len: size - root.Body.Off}, true
		}
		return root.Header, true
	}
	part := root.Find(sec.path)
	switch {
	case part == nil:
		return span, false
	case sec.text == textAll:
		return part.Body, true
	case sec.text == textMIME:
		return part.Header, true
	case part.Message == nil:
		return span, false
	case sec.text == textText:
		return part.Message.Body, true
	}
	return part.Message.Header, true
}

// cut applies <off.n> to a run of octets.
func (sec *section) cut(span message.Span) message.Span {
	if sec.partial {
		off := min(sec.off, span.Len)
		span = message.Span{Off: span.Off + off, Len: min(sec.n, span.Len-off)}
	}
	return span
}

// writeSection writes the label and the octets of a section.
func (f *fetcher) writeSection(c *mailbox.Content, root *message.Part, sec *section) error {
	f.s.w.B = append(append(f.s.w.B, sec.label...), ' ')
	if sec.kind != kindBody {
		return f.writeBinary(c, root, sec)
	}
	span, ok := sec.span(root, c.Size())
	if !ok {
		f.s.w.B = append(f.s.w.B, "NIL"...)
		return nil
	}
	if sec.text == textFields || sec.text == textFieldsNot {
		header, err := c.Bytes(f.s.ctx, span.Off, span.Len)
		if err != nil {
			return cutShort(err)
		}
		f.scratch = message.Select(f.scratch[:0], header, sec.names, sec.text == textFieldsNot)
		part := sec.cut(message.Span{Len: int64(len(f.scratch))})
		f.s.w.B = imapwire.AppendLiteral(f.s.w.B, f.scratch[part.Off:part.End()])
		return nil
	}
	return f.writeOctets(c, sec.cut(span))
}

// cutShort is a failure inside a response: nothing that follows could be told
// from it.
func cutShort(err error) error { return fmt.Errorf("%w: %w", errCut, err) }

// writeOctets writes octets of a message as a literal.
func (f *fetcher) writeOctets(c *mailbox.Content, span message.Span) error {
	f.s.w.B = imapwire.AppendLiteralHeader(f.s.w.B, span.Len, false)
	if span.Len <= streamSize {
		octets, err := c.Bytes(f.s.ctx, span.Off, span.Len)
		if err != nil || int64(len(octets)) != span.Len {
			return cutShort(err)
		}
		if _, err := f.s.w.Write(octets); err != nil {
			return ioError{err}
		}
		return nil
	}
	left := span.Len
	err := c.Stream(f.s.ctx, span.Off, span.Len, func(piece []byte) error {
		left -= int64(len(piece))
		if _, err := f.s.w.Write(piece); err != nil {
			return ioError{err}
		}
		return nil
	})
	if err != nil || left != 0 {
		return cutShort(err)
	}
	return nil
}

// writeBinary writes the octets that a part stands for, or their number (RFC
// 3516 4.3).
func (f *fetcher) writeBinary(c *mailbox.Content, root *message.Part, sec *section) error {
	octets, ok, err := f.decode(c, root, sec)
	if err != nil {
		return cutShort(err)
	}
	switch {
	case sec.kind == kindSize:
		f.s.w.B = imapwire.AppendNumber(f.s.w.B, len(octets))
		return nil
	case !ok:
		f.s.w.B = append(f.s.w.B, "NIL"...)
		return nil
	}
	part := sec.cut(message.Span{Len: int64(len(octets))})
	octets = octets[part.Off:part.End()]
	f.s.w.B = imapwire.AppendLiteralHeader(f.s.w.B, part.Len, bytes.IndexByte(octets, 0) >= 0)
	if _, err := f.s.w.Write(octets); err != nil {
		return ioError{err}
	}
	return nil
}

// decode returns the octets of a part without its transfer encoding; ok is
// false when there is no such part.
func (f *fetcher) decode(c *mailbox.Content, root *message.Part, sec *section) (octets []byte, ok bool, err error) {
	if len(sec.path) == 0 {
		octets, err = c.Bytes(f.s.ctx, 0, c.Size())
		return octets, true, err
	}
	part := root.Find(sec.path)
	if part == nil {
		return nil, false, nil
	}
	octets, err = c.Bytes(f.s.ctx, part.Body.Off, part.Body.Len)
	if err != nil || whole(part) {
		return octets, true, err
	}
	alone := *part
	alone.Body.Off = 0
	octets, err = alone.Decoded(octets, 0)
	return octets, true, err
}

package mailbox

import (
	"context"
	"errors"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/message"
)

// Content is what one message holds. It is for one goroutine, until Close.
type Content struct {
	body *store.Body
	part *message.Part
}

// Message opens the content of the message of row. Octets never change, so
// that a message removed meanwhile is ErrExpunged and nothing else.
func (v *View) Message(ctx context.Context, row *Row) (*Content, error) {
	b, err := v.a.s.cfg.Store.Body(row.MessageID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, v.a.unlessStale(ctx, ErrExpunged)
	}
	if err != nil {
		return nil, err
	}
	return &Content{body: b}, nil
}

// Part is the message's structure and envelope, decoded on first use.
func (c *Content) Part() *message.Part {
	if c.part == nil {
		p, err := message.DecodePart(c.body.Message().Meta)
		if err != nil { // written by another release: read the message itself
			octets, _ := c.body.Bytes(0, c.body.Size())
			p = message.Parse(octets)
		}
		c.part = p
	}
	return c.part
}

// Size is the octets of the message.
func (c *Content) Size() int64 { return c.body.Size() }

// Bytes returns octets [off, off+n), fewer at the end of the message, checked
// against their checksum and valid until Close or the next call.
func (c *Content) Bytes(_ context.Context, off, n int64) ([]byte, error) { return c.body.Bytes(off, n) }

// Stream calls f with octets [off, off+n) in pieces of at most 256 KB.
func (c *Content) Stream(_ context.Context, off, n int64, f func(piece []byte) error) error {
	return c.body.Each(off, n, f)
}

// Close gives the buffers back.
func (c *Content) Close() { c.body.Close() }

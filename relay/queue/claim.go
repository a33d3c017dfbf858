package queue

import (
	"encoding/hex"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// claim appends where an autoreply is claimed before it is sent.
func (e *encoder) claim(c *mail.AutoreplyClaim) {
	if c == nil {
		return
	}
	e.b = append(e.b, "claim "...)
	e.b = hex.AppendEncode(e.b, c.Hash[:])
	e.b = append(e.b, '\n')
	e.text("claimpair", c.Pair)
	e.text("claimmailbox", c.Mailbox)
	e.num("claimtime", int64(c.Period))
}

// claim reads a line that follows "claim".
func (l *line) claim(c *mail.AutoreplyClaim) {
	switch {
	case c == nil:
		l.fail("without a claim")
	case l.key == "claimpair":
		c.Pair = l.text()
	case l.key == "claimmailbox":
		c.Mailbox = l.text()
	default:
		c.Period = time.Duration(l.num())
	}
}

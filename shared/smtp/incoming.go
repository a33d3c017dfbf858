package smtp

import (
	"bytes"
	"math"
	"slices"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// incoming is a message on its way in. Octets are read straight to the place
// where the message stays and dots are taken out there.
type incoming struct {
	buf      *bodyBuffer
	n        int   // octets of the message so far: buf.b[:n]
	total    int64 // octets of the message so far, with those thrown away
	raw      int64 // octets read
	admitted int64
	releases []func()
	fault    *Reply // the message is refused with this; its octets are thrown away
	lines    int    // CRLF
	begin    int    // where the line begins that is being read
	bare     bool   // a bare LF was seen
	chunked  bool   // by BDAT
	until    time.Time
}

// drop gives back the memory and what Admit granted.
func (m *incoming) drop() {
	if m.buf != nil {
		m.buf.free()
	}
	m.release()
	*m = incoming{}
}

func (m *incoming) release() {
	for _, f := range m.releases {
		if f != nil {
			f()
		}
	}
	m.releases = nil
}

// refuse notes why the message is refused; the first reason stays.
func (m *incoming) refuse(r *Reply) {
	if m.fault == nil {
		m.fault = r
	}
}

// firstRoom is the most that is taken at once on the word of a peer that has
// sent nothing yet.
const firstRoom = 256 << 10

// admit asks for memory up to n octets in all.
func (c *conn) admit(m *incoming, n int64) error {
	if c.cfg.Admit == nil || n <= m.admitted {
		return nil
	}
	release, err := c.cfg.Admit(n - m.admitted)
	if err != nil {
		return err
	}
	m.admitted = n + bodySlack
	m.releases = append(m.releases, release)
	return nil
}

// openBody takes the first room for a message.
func (c *conn) openBody(m *incoming) error {
	size := c.tx.size
	if size <= 0 {
		size = minBody - bodySlack
	}
	if err := c.admit(m, size); err != nil {
		return err
	}
	m.buf = getBody(int(min(size+bodySlack, firstRoom)))
	m.until = time.Now().Add(c.limits.DataTotal)
	return nil
}

// grow makes room for at least one more octet behind the used ones of m.buf.
// Room doubles, and goes straight to the announced size once a peer has shown
// that it sends more than firstRoom.
func (c *conn) grow(m *incoming, used int) bool {
	want := int64(2 * len(m.buf.b))
	if announced := c.tx.size + bodySlack; announced > int64(len(m.buf.b)) && int64(len(m.buf.b)) >= firstRoom {
		want = announced
	}
	want = max(min(want, c.limits.Size+bodySlack), int64(len(m.buf.b))+bodySlack)
	if want > math.MaxInt32 {
		m.refuse(replyTooBig)
		return false
	}
	if err := c.admit(m, want); err != nil {
		m.refuse(refusal(ReplyFor(err)))
		return false
	}
	bigger := getBody(int(want))
	copy(bigger.b, m.buf.b[:used])
	m.buf.free()
	m.buf = bigger
	return true
}

// refusal is r if it refuses, else a temporary failure.
func refusal(r *Reply) *Reply {
	if r == nil || r.Code < 400 || r.Code > 599 {
		return replyNoAnswer
	}
	return r
}

// readDotted reads a message up to CRLF.CRLF into m and puts back what follows
// it. The caller has sent 354. A refused message is read to its end too.
func (c *conn) readDotted(m *incoming) error {
	e := 0            // buf.b[m.n:e] is read but not yet understood
	lineStart := true // at the start of a line, which only CRLF begins
	for {
		if m.fault != nil && m.n > 1 { // keep the octet that may be a CR
			m.buf.b[0] = m.buf.b[m.n-1]
			e = 1 + copy(m.buf.b[1:], m.buf.b[m.n:e])
			m.n = 1
			if m.raw > tooMuch(c.limits.Size) {
				return errFlood
			}
		}
		if len(m.buf.b)-e < bodySlack/2 && (!c.grow(m, e)) {
			continue
		}
		own := c.in.buffered()
		var got int
		if own > 0 {
			got = copy(m.buf.b[e:], c.in.window())
			c.in.r += got
		} else {
			c.waitUntil(c.limits.DataTimeout, m.until)
			if err := c.flush(); err != nil {
				return err
			}
			var err error
			if got, err = c.read(m.buf.b[e:]); err != nil {
				return err
			}
		}
		e += got
		m.raw += int64(got)
		var end int
		end, lineStart = c.undot(m, e, lineStart)
		if end >= 0 { // the end: put back the rest
			if own > 0 {
				c.in.r -= e - end
			} else {
				c.in.set(m.buf.b[end:e])
			}
			return nil
		}
		e = m.n - (end + 1)
	}
}

// tooMuch is where patience with a message over the limit ends.
func tooMuch(size int64) int64 { return 4*size + 16<<20 }

// undot moves what is complete of buf.b[m.n:e] to the message, taking out the
// dots that begin lines. It returns the offset behind CRLF.CRLF, or -1-k when
// k octets that cannot be judged yet remain at buf.b[m.n:].
func (c *conn) undot(m *incoming, e int, lineStart bool) (end int, start bool) {
	b, w, s := m.buf.b, m.n, m.n
	for {
		if lineStart {
			switch {
			case s == e:
				c.took(m, w)
				return -1, true
			case b[s] == '.':
				if e-s < 2 || b[s+1] == '\r' && e-s < 3 {
					c.took(m, w)
					return -1 - copy(b[w:], b[s:e]), true
				}
				if b[s+1] == '\r' && b[s+2] == '\n' {
					c.took(m, w)
					return s + 3, true
				}
				s++
			}
			lineStart = false
			m.begin = w
		}
		i := bytes.IndexByte(b[s:e], '\n')
		if i < 0 {
			w = shift(b, w, s, e)
			c.took(m, w)
			c.longText(m, w-m.begin)
			return -1, false
		}
		w = shift(b, w, s, s+i+1)
		s += i + 1
		if w >= 2 && b[w-2] == '\r' {
			m.lines++
			lineStart = true
			c.longText(m, w-m.begin)
		} else {
			m.bare = true
		}
	}
}

// shift moves b[s:e] down to w and returns its end there.
func shift(b []byte, w, s, e int) int {
	if w != s {
		copy(b[w:], b[s:e])
	}
	return w + e - s
}

// took notes that the message now ends at w.
func (c *conn) took(m *incoming, w int) {
	m.total += int64(w - m.n)
	m.n = w
	if m.total > c.limits.Size {
		m.refuse(replyTooBig)
	}
}

func (c *conn) longText(m *incoming, n int) {
	if c.limits.HeaderLine > 0 && n > c.limits.HeaderLine {
		m.refuse(replyLongText)
	}
}

// readChunk reads n octets of BDAT into m, or throws them away if the message
// is refused.
func (c *conn) readChunk(m *incoming, n int64) error {
	if m.fault == nil && m.total+n > c.limits.Size {
		m.refuse(replyTooBig)
	}
	for n > 0 {
		var room []byte
		if m.fault == nil {
			if m.n == len(m.buf.b) && !c.grow(m, m.n) {
				continue
			}
			room = m.buf.b[m.n:]
		} else {
			if m.buf == nil {
				m.buf = getBody(0)
			}
			m.n, room = 0, m.buf.b
		}
		room = room[:min(int64(len(room)), n)]
		var got int
		if c.in.buffered() > 0 {
			got = copy(room, c.in.window())
			c.in.r += got
		} else {
			c.waitUntil(c.limits.DataTimeout, m.until)
			if err := c.flush(); err != nil {
				return err
			}
			var err error
			if got, err = c.read(room); err != nil {
				return err
			}
		}
		n -= int64(got)
		m.n += got
		m.total += int64(got)
	}
	return nil
}

// finish judges the whole message, line ends, NUL and header, and makes it
// ready for the session. It returns the refusal, if any.
func (c *conn) finish(m *incoming) *Reply {
	if m.fault != nil {
		return m.fault
	}
	b := m.buf.b[:m.n]
	found := inspection{bare: m.bare}
	if m.chunked {
		var s inspector
		s.add(b)
		found = s.end()
	} else {
		found.nul = bytes.IndexByte(b, 0) >= 0
		found.eightBit = hasEightBit(b)
		found.bare = found.bare || bytes.Count(b, crByte) != m.lines
	}
	if found.nul {
		return replyBareData
	}
	open := len(b) > 0 && b[len(b)-1] != '\n' // only by BDAT
	if found.bare || open {
		if found.bare && (c.cfg.LineEnds == nil || c.cfg.LineEnds(c.info.Remote) != NormalizeBare) {
			return replyBareData
		}
		var r *Reply
		if b, r = c.repair(m, b); r != nil {
			return r
		}
	}
	if headerLen(b, c.limits.Header) > c.limits.Header {
		return replyBigHeader
	}
	c.tx.msg = Message{Bytes: slices.Clip(b), EightBit: found.eightBit, buf: m.buf}
	return nil
}

// repair gives every line of b its CRLF, in a new buffer.
func (c *conn) repair(m *incoming, b []byte) ([]byte, *Reply) {
	n := normalizedLen(b) + 2
	if int64(n-2) > c.limits.Size {
		return nil, replyTooBig
	}
	if err := c.admit(m, int64(n)); err != nil {
		return nil, refusal(ReplyFor(err))
	}
	fresh := getBody(n)
	b = appendNormalized(fresh.b[:0], b)
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\r', '\n')
	}
	m.buf.free()
	m.buf, m.n = fresh, len(b)
	return b, nil
}

// deliver ends a transaction whose message is complete: the session's answers,
// or the refusal, one for each accepted recipient in LMTP.
func (c *conn) deliver(m *incoming) {
	refused := c.finish(m)
	answers := 1
	if c.cfg.Protocol == LMTP {
		answers = c.tx.rcpts
	}
	var replies []*Reply
	if refused == nil {
		c.transactions++
		replies = c.sess.Data(c.ctx, &c.tx.msg)
		if c.tx.msg.retained {
			m.buf = nil
		}
	}
	accepted := false
	for i := range answers {
		r := refused
		if r == nil {
			r = replyNoAnswer // a missing answer is never a promise
			if i < len(replies) && replies[i] != nil && replies[i].Code/100 != 3 {
				r = replies[i]
			}
		}
		accepted = accepted || r.OK()
		c.reply(r)
	}
	if accepted {
		c.errors = 0
	}
	c.resetTransaction()
}

// data is the DATA command.
func (c *conn) data(args []byte) error {
	var r *Reply
	m := &c.tx.incoming
	switch {
	case len(args) > 0:
		r = replyNoArgs
	case !c.tx.open:
		r = replyMailFirst
	case m.chunked: // RFC 3030 section 3
		r = replySequence
	case c.tx.rcpts == 0:
		r = replyNoRcpt
	default:
		if err := c.openBody(m); err != nil {
			r = refusal(ReplyFor(err))
		}
	}
	if r != nil {
		// What already follows may be the message: it must not run as commands.
		c.reply(r)
		if c.in.buffered() > 0 {
			c.closing, c.abrupt = true, true
		}
		return nil
	}
	c.reply(replyData)
	if err := c.readDotted(m); err != nil {
		return err
	}
	c.deliver(m)
	return nil
}

// bdat is the BDAT command (RFC 3030).
func (c *conn) bdat(args []byte) error {
	n, last, ok := parseBdat(string(args))
	if !ok { // how much follows is unknown
		c.reply(&Reply{Code: 501, Status: mail.StatusBadParameter, Text: "Bad BDAT", Close: true})
		return nil
	}
	if n > tooMuch(c.limits.Size) {
		c.reply(&Reply{Code: 552, Status: mail.StatusTooBig, Text: replyTooBig.Text, Close: true})
		return nil
	}
	m := &c.tx.incoming
	var r *Reply
	switch {
	case !c.tx.open:
		r = replyMailFirst
	case c.tx.rcpts == 0:
		r = replyNoRcpt
	case m.buf == nil && m.fault == nil:
		m.chunked = true
		if err := c.openBody(m); err != nil {
			m.refuse(refusal(ReplyFor(err)))
		}
	}
	if r != nil { // the chunk is skipped, RFC 3030 section 2
		skip := incoming{fault: r, until: time.Now().Add(c.limits.DataTotal)}
		defer skip.drop()
		if err := c.readChunk(&skip, n); err != nil {
			return err
		}
		c.reply(r)
		return nil
	}
	if err := c.readChunk(m, n); err != nil {
		return err
	}
	switch {
	case last:
		c.deliver(m)
	case m.fault != nil:
		c.reply(m.fault)
	default:
		c.reply(replyOK)
	}
	return nil
}

package smtp

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// Bounds of what a peer may answer.
const (
	maxReplyLines  = 200
	maxReplyOctets = 64 << 10
)

// replyReader is the buffer that replies are cut from.
type replyReader struct {
	buf    []byte
	r, w   int
	recent [4]seenReply
	next   int
}

// seenReply is a one-line reply as it came and as it was read. Peers say the
// same few lines again and again.
type seenReply struct {
	line  string
	reply *Reply
}

func (in *replyReader) buffered() int { return in.w - in.r }

// readReply reads one reply. An error means that the connection is of no more
// use; so does a 421, which is returned as a reply.
func (c *Client) readReply(timeout time.Duration) (*Reply, error) {
	r, err := c.scanReply(timeout)
	if err != nil || r.Code == 421 {
		c.broken = true
	}
	return r, err
}

func (c *Client) scanReply(timeout time.Duration) (*Reply, error) {
	var r *Reply
	total := 0
	for lines := 0; ; lines++ {
		line, err := c.readReplyLine(timeout)
		if err != nil {
			return nil, err
		}
		code, more, ok := replyHead(line)
		total += len(line)
		if !ok || r != nil && r.Code != code || lines == maxReplyLines || total > maxReplyOctets {
			return nil, fmt.Errorf("%w: bad reply %.40q", ErrProtocol, line)
		}
		if r == nil && !more {
			return c.in.remember(line, code), nil
		}
		status, text := replyText(line, code)
		if r == nil {
			r = &Reply{Code: code, Status: status, Text: text}
		} else {
			r.Text += "\n" + text
		}
		if !more {
			return r, nil
		}
	}
}

// remember returns the reply of a line, the same one for the same line.
func (in *replyReader) remember(line []byte, code int) *Reply {
	for i := range in.recent {
		if in.recent[i].line == string(line) {
			return in.recent[i].reply
		}
	}
	status, text := replyText(line, code)
	r := &Reply{Code: code, Status: status, Text: text}
	in.recent[in.next] = seenReply{string(line), r}
	in.next = (in.next + 1) % len(in.recent)
	return r
}

// replyHead reads the code of a reply line and whether more lines follow.
func replyHead(line []byte) (code int, more, ok bool) {
	if len(line) < 3 {
		return 0, false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		code = 10*code + int(c-'0')
	}
	if code < 200 || code > 599 {
		return 0, false, false
	}
	if len(line) == 3 || line[3] == ' ' {
		return code, false, true
	}
	return code, true, line[3] == '-'
}

// replyText reads what follows the code, the enhanced status apart when it is
// of the code's class. Control octets become "?".
func replyText(line []byte, code int) (mail.Status, string) {
	text := ""
	if len(line) > 4 {
		text = strings.Map(func(r rune) rune {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				return '?'
			}
			return r
		}, string(line[4:]))
	}
	word, rest, _ := strings.Cut(text, " ")
	if s, ok := mail.ParseStatus(word); ok && s[0] == code/100 {
		return s, rest
	}
	return mail.Status{}, text
}

// readReplyLine returns the next line without its CRLF, valid until the next.
func (c *Client) readReplyLine(timeout time.Duration) ([]byte, error) {
	in := &c.in
	armed := false
	for from := 0; ; {
		win := in.buf[in.r:in.w]
		if i := bytes.IndexByte(win[from:], '\n'); i >= 0 {
			i += from
			in.r += i + 1
			if i == 0 || win[i-1] != '\r' {
				return nil, fmt.Errorf("%w: bare LF in a reply", ErrProtocol)
			}
			return win[:i-1], nil
		}
		from = len(win)
		if in.r == in.w {
			in.r, in.w = 0, 0
		} else if in.w == len(in.buf) {
			if in.r == 0 {
				return nil, fmt.Errorf("%w: reply line too long", ErrProtocol)
			}
			in.w = copy(in.buf, win)
			in.r = 0
		}
		if !armed {
			armed = true
			c.nc.SetReadDeadline(time.Now().Add(timeout))
			if err := c.ctx.Err(); err != nil {
				return nil, err
			}
		}
		n, err := c.nc.Read(in.buf[in.w:])
		in.w += n
		if n == 0 && err != nil {
			return nil, fmt.Errorf("smtp: read: %w", err)
		}
	}
}

package smtp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// Ends of a session that are not the peer's.
var (
	errDraining = errors.New("smtp: shutting down")
	errKilled   = errors.New("smtp: stopped")
	errNoProxy  = errors.New("smtp: no PROXY header")
	errEndless  = errors.New("smtp: line without end")
	errFlood    = errors.New("smtp: message far over the limit")
)

// endless is how many octets of one over-long line are read before the
// connection is given up.
const endless = 1 << 20

// input is the small buffer between a connection and its lines. It is of fixed
// size; only what arrives behind the end of a message can make it larger for a
// while.
type input struct {
	base *bodyBuffer
	buf  []byte
	r, w int // buf[r:w] is unread
}

func (in *input) open(size int) {
	if size <= lineBuffer {
		in.base = linePool.Get().(*bodyBuffer)
	} else {
		in.base = &bodyBuffer{b: make([]byte, size)}
	}
	in.buf = in.base.b
}

func (in *input) close() {
	if in.base != nil && len(in.base.b) == lineBuffer {
		linePool.Put(in.base)
	}
	*in = input{}
}

func (in *input) buffered() int { return in.w - in.r }

func (in *input) window() []byte { return in.buf[in.r:in.w] }

// set makes b, which the caller keeps, the unread input. The buffer is empty.
func (in *input) set(b []byte) {
	if len(b) > len(in.buf) {
		in.buf = make([]byte, len(b))
	}
	in.r, in.w = 0, copy(in.buf, b)
}

// space returns room for more input, after what is unread; none when full.
func (in *input) space() []byte {
	if in.r == in.w {
		in.r, in.w = 0, 0
		in.buf = in.base.b
	} else if in.r > 0 && in.w == len(in.buf) {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	return in.buf[in.w:]
}

// lineFault says what is wrong with a line of input.
type lineFault uint8

const (
	lineLong lineFault = 1 << iota // longer than Limits.Line; its text is gone
	lineBare                       // holds a bare CR, a bare LF or a NUL
	lineOpen                       // ended by a bare LF with nothing behind it
)

// readLine returns the next line without its CRLF, valid until the next read.
// A line ends at CRLF and nowhere else, so what follows a bare LF is never
// taken for a command of its own. A line that ends the input with a bare LF is
// returned with lineOpen: its sender waits for an answer, and the connection
// has to end with it.
func (c *conn) readLine() (line []byte, fault lineFault, err error) {
	var scan lineScan
	for waiting := false; ; waiting = true {
		line, fault, ok := c.nextLine(&scan)
		if ok {
			return line, fault, nil
		}
		if scan.dropped > endless {
			return nil, fault, errEndless
		}
		if !waiting { // from one command to the next, however it drips
			c.waitUntil(c.limits.CommandTimeout, time.Time{})
		}
		c.idle.Store(!c.tx.open)
		err := c.fill()
		c.idle.Store(false)
		if err != nil {
			return nil, fault, err
		}
	}
}

// lineScan is how far the search for the end of a line has come.
type lineScan struct {
	from    int // octets of the window that were searched
	dropped int // octets of an over-long line thrown away
	fault   lineFault
}

// nextLine cuts the next line off the buffer, if its end is there.
func (c *conn) nextLine(s *lineScan) (line []byte, fault lineFault, ok bool) {
	in := &c.in
	win := in.window()
	for s.from < len(win) {
		i := bytes.IndexByte(win[s.from:], '\n')
		if i < 0 {
			s.from = len(win)
			break
		}
		i += s.from
		if i > 0 && win[i-1] == '\r' {
			in.r += i + 1
			line, fault = c.checkLine(win[:i-1], s.fault)
			return line, fault, true
		}
		s.fault |= lineBare
		s.from = i + 1
	}
	if s.fault&lineBare != 0 && len(win) > 0 && win[len(win)-1] == '\n' {
		in.r = in.w
		line, fault = c.checkLine(win[:len(win)-1], s.fault|lineOpen)
		return line, fault, true
	}
	if len(win) >= c.limits.Line {
		s.fault |= lineLong
		keep := 0
		if win[len(win)-1] == '\r' {
			keep = 1
		}
		in.r = in.w - keep
		s.from = keep
		s.dropped += len(win) - keep
	}
	return nil, s.fault, false
}

func (c *conn) checkLine(line []byte, fault lineFault) ([]byte, lineFault) {
	if len(line)+2 > c.limits.Line {
		fault |= lineLong
	}
	if fault&lineLong != 0 {
		return nil, fault
	}
	if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
		fault |= lineBare
	}
	return line, fault
}

// waitUntil sets the deadline of the reads that follow: timeout from now, but
// not past total (zero: none) nor past the end of the session.
func (c *conn) waitUntil(timeout time.Duration, total time.Time) {
	t := time.Now().Add(timeout)
	if !total.IsZero() && total.Before(t) {
		t = total
	}
	if c.sessionEnd.Before(t) {
		t = c.sessionEnd
	}
	c.deadline = t
}

// fill reads more input after sending what waits to be sent.
func (c *conn) fill() error {
	if err := c.flush(); err != nil {
		return err
	}
	n, err := c.read(c.in.space())
	c.in.w += n
	return err
}

// read reads once into b under the deadline of waitUntil. It returns octets or
// an error, never both and never neither.
func (c *conn) read(b []byte) (int, error) {
	if c.readErr != nil {
		return 0, c.readErr
	}
	for {
		c.nc.SetReadDeadline(c.deadline)
		// The order matters: stop and Shutdown raise their flag first and then
		// set the deadline, so one of the two is seen here.
		if err := c.interrupted(); err != nil {
			return 0, err
		}
		n, err := c.nc.Read(b)
		if n > 0 {
			c.readErr = err
			return n, nil
		}
		switch {
		case err == nil:
			continue
		case isTimeout(err):
			if err := c.interrupted(); err != nil {
				return 0, err
			}
			if time.Now().Before(c.deadline) {
				continue // a deadline that Shutdown set while a command arrived
			}
		}
		c.readErr = err
		return 0, err
	}
}

// interrupted reports that the session has to end whatever the peer does.
func (c *conn) interrupted() error {
	if c.ctx.Err() != nil {
		return errKilled
	}
	if c.idle.Load() && c.srv.away() {
		return errDraining
	}
	return nil
}

// flush sends the replies that wait.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if c.writeErr != nil {
		return c.writeErr
	}
	timeout := c.limits.CommandTimeout
	if c.ctx.Err() != nil {
		timeout = lingerTime
	}
	c.nc.SetWriteDeadline(time.Now().Add(timeout))
	_, c.writeErr = c.nc.Write(c.out)
	if cap(c.out) > lineBuffer {
		c.out = nil
	}
	c.out = c.out[:0]
	return c.writeErr
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) }

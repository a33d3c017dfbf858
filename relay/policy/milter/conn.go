package milter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	maxCommandReply = 128 << 10 // octets of the answers to one command
	maxPending      = 32 << 10  // octets of events that wait to be sent
	byeTimeout      = time.Second
)

var (
	errTooMuch = errors.New("it sends more than it may")
	errEmpty   = errors.New("packet without a code")
)

// conn is a connection to a filter. It is bounded by call: begin says how long the
// call may take and how much may come back.
type conn struct {
	net.Conn
	r   *bufio.Reader
	out []byte // events that are not sent yet
	in  []byte // data of the packet that was read last

	// Several packets are to come, which a filter on libmilter writes one by one,
	// each when the one before has arrived.
	hurry bool

	ctx  context.Context // of the call
	wait time.Duration   // from one packet to the next
	end  time.Time       // of the call
	left int64           // octets that may still come
}

func newConn(c net.Conn) *conn { return &conn{Conn: c, r: bufio.NewReaderSize(c, 512)} }

// begin starts a call, which done ends.
func (c *conn) begin(ctx context.Context, wait, total time.Duration, limit int64) (done func()) {
	c.ctx, c.wait, c.left = ctx, wait, limit
	c.end = time.Now().Add(total)
	c.SetDeadline(c.until())
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		c.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-ended // or it would end the next call
		}
	}
}

// until is when what is being waited for must have come.
func (c *conn) until() time.Time {
	t := time.Now().Add(c.wait)
	if t.After(c.end) {
		return c.end
	}
	return t
}

// extend begins to wait anew. A context that ended before has put the deadline
// into the past already; one that ends later does.
func (c *conn) extend() error {
	c.SetDeadline(c.until())
	return c.ctx.Err()
}

// packet puts a packet among those to be sent.
func (c *conn) packet(code byte, data []byte) {
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(data)+1))
	c.out = append(append(c.out, code), data...)
}

// body sends a part of a message without copying it.
func (c *conn) body(data []byte) error {
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(data)+1))
	c.out = append(c.out, cmdBody)
	if err := c.extend(); err != nil {
		return err
	}
	parts := net.Buffers{c.out, data}
	_, err := parts.WriteTo(c.Conn)
	c.out = c.out[:0]
	return err
}

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if err := c.extend(); err != nil {
		return err
	}
	_, err := c.Write(c.out)
	if c.out = c.out[:0]; cap(c.out) > 4096 {
		c.out = nil // an idle session holds little
	}
	return err
}

// read sends what waits and reads one packet. The data are valid until the next.
func (c *conn) read() (code byte, data []byte, err error) {
	if err := c.flush(); err != nil {
		return 0, nil, err
	}
	if err := c.extend(); err != nil {
		return 0, nil, err
	}
	if c.hurry && c.r.Buffered() == 0 {
		quickACK(c.Conn)
	}
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, noEnd(err)
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if c.left -= n + 4; c.left < 0 {
		return 0, nil, errTooMuch
	}
	if n == 0 {
		return 0, nil, errEmpty
	}
	if code, err = c.r.ReadByte(); err != nil {
		return 0, nil, noEnd(err)
	}
	if n--; n <= chunk {
		if int64(cap(c.in)) < n {
			c.in = make([]byte, max(n, 256))
		}
		c.in = c.in[:n]
		_, err = io.ReadFull(c.r, c.in)
		return code, c.in, noEnd(err)
	}
	// Memory is taken as the octets come, not as they are announced.
	var b bytes.Buffer
	if _, err = io.CopyN(&b, c.r, n); err != nil {
		return 0, nil, noEnd(err)
	}
	return code, b.Bytes(), nil
}

// answer reads the packet that answers an event. Who makes progress may go on.
func (c *conn) answer() (code byte, data []byte, err error) {
	for {
		code, data, err = c.read()
		if err != nil || code != respProgress {
			return code, data, err
		}
	}
}

// noEnd makes an end between two packets as bad as one inside of one.
func noEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("connection closed by the filter: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// bye says that the session is over and closes. It hardly waits for the filter.
func (c *conn) bye() {
	c.packet(cmdQuit, nil)
	c.SetDeadline(time.Now().Add(byeTimeout))
	c.Write(c.out)
	c.Close()
}

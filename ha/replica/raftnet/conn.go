package raftnet

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	recordSize  = 16 << 10  // the most that one TLS record carries
	holdSize    = 256 << 10 // encrypted bytes put into one system call
	readSize    = 32 << 10
	smallBuffer = 4 << 10
)

// held is a connection whose writes are collected until flush, so that a
// message of many TLS records takes few system calls.
type held struct {
	net.Conn
	r *bufio.Reader

	mu   sync.Mutex // guards what follows: TLS may answer from the reading side
	hold bool
	w    []byte
}

func newHeld(c net.Conn) *held {
	return &held{Conn: c, r: bufio.NewReaderSize(c, readSize)}
}

func (h *held) Read(p []byte) (int, error) { return h.r.Read(p) }

func (h *held) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.hold {
		return h.Conn.Write(p)
	}
	if len(h.w)+len(p) > holdSize {
		if err := h.flushLocked(); err != nil {
			return 0, err
		}
	}
	h.w = append(h.w, p...)
	return len(p), nil
}

func (h *held) flush() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.flushLocked()
}

func (h *held) flushLocked() error {
	if len(h.w) == 0 {
		return nil
	}
	_, err := h.Conn.Write(h.w)
	if cap(h.w) > 4*recordSize && len(h.w) <= smallBuffer {
		h.w = nil // idle connections keep little memory
	}
	h.w = h.w[:0]
	return err
}

// link is an authenticated connection that carries messages. One goroutine
// writes and one reads.
type link struct {
	tls *tls.Conn
	raw *held
	w   *bufio.Writer
	enc writer
	buf []byte // for small messages

	limit int // largest message to receive
}

// newLink takes over a connection after the handshake.
func newLink(t *tls.Conn, raw *held) *link {
	raw.mu.Lock()
	raw.hold = true
	raw.mu.Unlock()
	return &link{tls: t, raw: raw, w: bufio.NewWriterSize(t, recordSize), limit: maxMessage}
}

// Close ends the connection at once. Messages have their own ends, so that
// TLS's farewell is not needed.
func (l *link) Close() error { return l.raw.Conn.Close() }

// begin starts a message in l.enc; finish completes it with extra bytes that
// the caller writes to l.w itself afterwards.
func (l *link) begin(kind uint8) *writer {
	if cap(l.enc.b) > 1<<20 {
		l.enc.b = nil
	}
	l.enc.b = append(l.enc.b[:0], 0, 0, 0, 0, kind)
	return &l.enc
}

func (l *link) finish(extra int) error {
	n := len(l.enc.b) - 4 + extra
	if n > maxMessage {
		return fmt.Errorf("raftnet: message of %d bytes", n)
	}
	binary.LittleEndian.PutUint32(l.enc.b, uint32(n))
	_, err := l.w.Write(l.enc.b)
	return err
}

func (l *link) flush() error {
	if err := l.w.Flush(); err != nil {
		return err
	}
	return l.raw.flush()
}

// send writes one whole message.
func (l *link) send(kind uint8, v any) error {
	if err := l.begin(kind).encode(v); err != nil {
		return err
	}
	if err := l.finish(0); err != nil {
		return err
	}
	return l.flush()
}

// sendAppend writes an AppendEntries request. The entries' data is not copied
// together first.
func (l *link) sendAppend(q *raft.AppendEntriesRequest) error {
	l.begin(kindAppend).append(q)
	if err := l.finish(appendSize(q)); err != nil {
		return err
	}
	for _, e := range q.Entries {
		l.enc.b = l.enc.b[:0]
		l.enc.entry(e)
		l.enc.b = append(l.enc.b, e.Extensions...)
		if _, err := l.w.Write(l.enc.b); err != nil {
			return err
		}
		if _, err := l.w.Write(e.Data); err != nil {
			return err
		}
	}
	return l.flush()
}

// receive reads a message. The body is valid until the next call, unless fresh
// says that it is the caller's.
func (l *link) receive() (kind uint8, body []byte, fresh bool, err error) {
	var h [5]byte
	if _, err := io.ReadFull(l.tls, h[:]); err != nil {
		return 0, nil, false, err
	}
	n := int(binary.LittleEndian.Uint32(h[:])) - 1
	if n < 0 || n >= l.limit {
		return 0, nil, false, fmt.Errorf("%w: %d bytes", errMessage, n)
	}
	if n <= smallBuffer && h[4] != kindAppend {
		if l.buf == nil {
			l.buf = make([]byte, smallBuffer)
		}
		body = l.buf[:n]
	} else {
		body, fresh = make([]byte, n), true
	}
	_, err = io.ReadFull(l.tls, body)
	return h[4], body, fresh, err
}

// deadline bounds reading and writing; zero takes the bound away.
func (l *link) deadline(d time.Duration) {
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = l.tls.SetDeadline(t) // an unusable connection shows at its next use
}

// Purposes of a connection.
const (
	forRaft   = 'R'
	forStatus = 'S'
	forWatch  = 'W'
	forStream = 'B'
	forAsk    = 'Q'

	preambleVersion = 1
)

// preamble is what a connection begins with.
type preamble struct {
	purpose  uint8
	pair     string
	from, to string // ids
}

func (p *preamble) write(l *link) error {
	w := l.begin(p.purpose)
	w.u8(preambleVersion)
	w.string(p.pair)
	w.string(p.from)
	w.string(p.to)
	if err := l.finish(0); err != nil {
		return err
	}
	return l.flush()
}

func readPreamble(l *link) (preamble, error) {
	kind, body, _, err := l.receive()
	if err != nil {
		return preamble{}, err
	}
	return parsePreamble(kind, body)
}

func parsePreamble(kind uint8, body []byte) (preamble, error) {
	r := reader{b: body}
	version := r.u8()
	p := preamble{purpose: kind, pair: r.string(), from: r.string(), to: r.string()}
	if err := r.end(); err != nil {
		return p, err
	}
	if version != preambleVersion {
		return p, fmt.Errorf("raftnet: preamble version %d, this program reads %d", version, preambleVersion)
	}
	return p, nil
}

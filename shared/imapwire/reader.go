package imapwire

import (
	"bytes"
	"errors"
	"io"
	"sync"
)

// Limits of a Reader.
const (
	// MaxLine bounds the text of one command, its literals apart (octets).
	MaxLine = 64 << 10
	// BufferSize is the ordinary size of a Reader's buffer (octets). A longer
	// command makes it grow until the command is done.
	BufferSize = 8 << 10
	// LargeBufferSize is the other size of buffer that is kept in a pool, for
	// readers of bulk data.
	LargeBufferSize = 64 << 10

	// headerRoom is more than the longest literal header with its CRLF.
	headerRoom = 32
	// firstSize holds what a peer that we wait for without a buffer says
	// first; "DONE" and its CRLF fit.
	firstSize = 16
)

// ErrLineTooLong says that the command's text exceeds the Reader's limit.
// SkipLine finds the way back to a line's beginning.
var ErrLineTooLong = errors.New("imapwire: line too long")

// A Reader frames the octets of one peer into lines and literals. It is for
// one goroutine. Deadlines are those of the source: after an error for which
// net.Error's Timeout is true, reading can go on where it stopped.
type Reader struct {
	src io.Reader
	buf []byte // nil while released; len is its size

	start int // first octet of the text kept for the caller
	pos   int // next octet to take
	end   int // behind the last octet read

	text    int // octets of lines since Begin
	maxText int
	size    int
	first   [firstSize]byte
	eof     error // an error of src that came with octets
}

// NewReader returns a Reader of src with a buffer of size octets (0:
// BufferSize) and text of at most maxText octets a command (0: MaxLine).
func NewReader(src io.Reader, size, maxText int) *Reader {
	if size <= 0 {
		size = BufferSize
	}
	if maxText <= 0 {
		maxText = MaxLine
	}
	return &Reader{src: src, size: max(size, 4*headerRoom), maxText: maxText}
}

// Buffers of the two sizes that connections use.
var (
	readBuffers  = sync.Pool{New: func() any { return new([BufferSize]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([LargeBufferSize]byte) }}
)

func (r *Reader) acquire() {
	switch {
	case r.buf != nil:
	case r.size == BufferSize:
		r.buf = readBuffers.Get().(*[BufferSize]byte)[:]
	case r.size == LargeBufferSize:
		r.buf = largeBuffers.Get().(*[LargeBufferSize]byte)[:]
	default:
		r.buf = make([]byte, r.size)
	}
}

func (r *Reader) drop() {
	switch len(r.buf) {
	case BufferSize:
		readBuffers.Put((*[BufferSize]byte)(r.buf))
	case LargeBufferSize:
		largeBuffers.Put((*[LargeBufferSize]byte)(r.buf))
	}
	r.buf = nil
	r.start, r.pos, r.end = 0, 0, 0
}

// Buffered is the number of octets that can be taken without reading.
func (r *Reader) Buffered() int { return r.end - r.pos }

// Release gives the buffer back when no octet waits in it. It forgets the text.
func (r *Reader) Release() {
	if r.buf != nil && r.pos == r.end {
		r.drop()
	}
}

// Wait blocks until at least one octet can be taken, holding no buffer
// meanwhile. It forgets the text.
func (r *Reader) Wait() error {
	if r.pos < r.end {
		return nil
	}
	r.Release()
	n, err := r.read(r.first[:])
	if n == 0 {
		return err
	}
	r.acquire()
	r.end = copy(r.buf, r.first[:n])
	return nil
}

// read reads at least one octet or returns an error.
func (r *Reader) read(p []byte) (int, error) {
	if r.eof != nil {
		err := r.eof
		r.eof = nil
		return 0, err
	}
	for range 100 {
		n, err := r.src.Read(p)
		if n > 0 {
			r.eof = err
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// fill reads more octets behind those it has, moving or growing the buffer.
// Callers bound what they ask for.
func (r *Reader) fill() error {
	if r.start == r.end && len(r.buf) != r.size {
		r.drop() // nothing kept, and the buffer had grown
	}
	r.acquire()
	switch {
	case r.start == r.end:
		r.start, r.pos, r.end = 0, 0, 0
	case r.end < len(r.buf):
	case r.start > 0:
		copy(r.buf, r.buf[r.start:r.end])
		r.pos -= r.start
		r.end -= r.start
		r.start = 0
	default:
		grown := make([]byte, 2*len(r.buf))
		copy(grown, r.buf[:r.end])
		start, pos, end := r.start, r.pos, r.end
		r.drop()
		r.buf, r.start, r.pos, r.end = grown, start, pos, end
	}
	n, err := r.read(r.buf[r.end:])
	r.end += n
	return err
}

// Begin starts a command: the text of the one before is forgotten.
func (r *Reader) Begin() {
	r.start = r.pos
	r.text = 0
}

// Text is what Line and Inline have read since Begin or since octets were
// taken out of it. It is valid until the next call that reads.
func (r *Reader) Text() []byte { return r.buf[r.start:r.pos] }

// Drop forgets the text read so far; its length still counts against the
// limit of the command.
func (r *Reader) Drop() { r.start = r.pos }

// Line reads the next line into the text and returns it with the LF that ends
// it. The line is valid until the next call that reads. With ErrLineTooLong it
// returns the beginning of the line, and nothing has been taken.
func (r *Reader) Line() ([]byte, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(r.buf[r.pos+scanned:r.end], '\n'); i >= 0 {
			line := r.buf[r.pos : r.pos+scanned+i+1]
			if r.text+len(line) > r.maxText {
				return line, ErrLineTooLong
			}
			r.text += len(line)
			r.pos += len(line)
			return line, nil
		}
		scanned = r.end - r.pos
		if r.text+scanned >= r.maxText {
			return r.buf[r.pos:r.end], ErrLineTooLong
		}
		if err := r.fill(); err != nil {
			return nil, unexpected(err, scanned > 0)
		}
	}
}

// SkipLine takes the rest of a line, at most bound octets, and reports the
// literal that it announces, if any. It forgets the text.
func (r *Reader) SkipLine(bound int64) (lit Literal, ok bool, err error) {
	var skipped int64
	for {
		r.Begin()
		if i := bytes.IndexByte(r.buf[r.pos:r.end], '\n'); i >= 0 {
			lit, ok = ParseLiteral(r.buf[r.pos : r.pos+i+1])
			r.pos += i + 1
			r.Begin()
			return lit, ok, nil
		}
		if n := r.end - r.pos - headerRoom; n > 0 { // a literal's header stays whole
			r.pos += n
			skipped += int64(n)
		}
		if skipped > bound {
			return Literal{}, false, ErrLineTooLong
		}
		r.start = r.pos
		if err := r.fill(); err != nil {
			return Literal{}, false, unexpected(err, true)
		}
	}
}

// Inline reads the n octets of a literal into the text. The caller bounds n.
func (r *Reader) Inline(n int) error {
	for r.end-r.pos < n {
		if err := r.fill(); err != nil {
			return unexpected(err, true)
		}
	}
	r.pos += n
	return nil
}

// ReadFull fills p. It forgets the text.
func (r *Reader) ReadFull(p []byte) error {
	n := copy(p, r.buf[r.pos:r.end])
	r.pos += n
	r.start = r.pos
	for n < len(p) {
		if len(p)-n < r.size/2 { // the rest and what follows it in one read
			if err := r.fill(); err != nil {
				return unexpected(err, true)
			}
			m := copy(p[n:], r.buf[r.pos:r.end])
			r.pos += m
			r.start = r.pos
			n += m
			continue
		}
		m, err := r.read(p[n:])
		if err != nil {
			return unexpected(err, true)
		}
		n += m
	}
	return nil
}

// Next takes at least one and at most limit octets, as many as are there
// without a second read. They are valid until the next call that reads. It
// forgets the text.
func (r *Reader) Next(limit int64) ([]byte, error) {
	if limit <= 0 {
		return nil, nil
	}
	r.start = r.pos
	if r.pos == r.end {
		if err := r.fill(); err != nil {
			return nil, unexpected(err, true)
		}
	}
	n := int(min(int64(r.end-r.pos), limit))
	p := r.buf[r.pos : r.pos+n]
	r.pos += n
	r.start = r.pos
	return p, nil
}

// Discard takes n octets and forgets them and the text.
func (r *Reader) Discard(n int64) error {
	for n > 0 {
		p, err := r.Next(n)
		if err != nil {
			return err
		}
		n -= int64(len(p))
	}
	r.start = r.pos
	return nil
}

// unexpected turns the end of the input inside something into
// io.ErrUnexpectedEOF.
func unexpected(err error, inside bool) error {
	if err == io.EOF && inside {
		return io.ErrUnexpectedEOF
	}
	return err
}

package imapwire

import (
	"io"
	"sync"
)

// FlushSize is how much output waits at most before it is written (octets).
const FlushSize = 64 << 10

// writeSlack is what a response may add behind FlushSize without growing the
// buffer.
const writeSlack = 4 << 10

type writeBuffer [FlushSize + writeSlack]byte

var writeBuffers = sync.Pool{New: func() any { return new(writeBuffer) }}

// A Writer collects output. Callers append to B and call Spill after each
// response; Flush when the peer is to see it. The first error sticks. It is for
// one goroutine.
type Writer struct {
	B []byte // output that waits; append to it

	dst    io.Writer
	pooled *writeBuffer
	err    error
}

// NewWriter returns a Writer to dst. It holds no buffer until Acquire.
func NewWriter(dst io.Writer) *Writer { return &Writer{dst: dst} }

// Acquire takes a buffer from the pool unless there is one.
func (w *Writer) Acquire() {
	if w.pooled == nil {
		w.pooled = writeBuffers.Get().(*writeBuffer)
		w.B = append(w.pooled[:0], w.B...)
	}
}

// Release gives the buffer back when nothing waits in it.
func (w *Writer) Release() {
	if len(w.B) == 0 && w.pooled != nil {
		writeBuffers.Put(w.pooled)
		w.pooled, w.B = nil, nil
	}
}

// Err is the first error of writing.
func (w *Writer) Err() error { return w.err }

// Spill writes what waits if it is FlushSize or more.
func (w *Writer) Spill() error {
	if len(w.B) < FlushSize {
		return w.err
	}
	return w.Flush()
}

// Flush writes what waits.
func (w *Writer) Flush() error {
	if len(w.B) > 0 {
		if w.err == nil {
			_, w.err = w.dst.Write(w.B)
		}
		w.reset()
	}
	return w.err
}

// reset empties B and drops an array that B outgrew.
func (w *Writer) reset() {
	if w.pooled != nil {
		w.B = w.pooled[:0]
		return
	}
	w.B = nil
}

// Write adds p: behind what waits if there is room, else after writing that.
// A large p is written without being copied.
func (w *Writer) Write(p []byte) (int, error) {
	if len(w.B)+len(p) > FlushSize {
		if len(w.B) > 0 && len(p) < FlushSize { // fill the buffer first: fewer, equal pieces
			n := FlushSize - min(len(w.B), FlushSize)
			w.B = append(w.B, p[:n]...)
			if err := w.Flush(); err != nil {
				return 0, err
			}
			w.B = append(w.B, p[n:]...)
			return len(p), w.err
		}
		if err := w.Flush(); err != nil {
			return 0, err
		}
		if len(p) >= FlushSize {
			_, w.err = w.dst.Write(p)
			return len(p), w.err
		}
	}
	w.B = append(w.B, p...)
	return len(p), w.err
}

// WriteString adds s.
func (w *Writer) WriteString(s string) { w.B = append(w.B, s...) }

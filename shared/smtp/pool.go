package smtp

import (
	"math/bits"
	"sync"
)

// Body buffers come in classes of powers of two. Larger ones are made to
// measure and left to the garbage collector.
const (
	minClass   = 14 // 16 KB
	maxClass   = 20 // 1 MB
	bodySlack  = 512
	minBody    = 1 << minClass
	maxPooled  = 1 << maxClass
	lineBuffer = 4096
)

// bodyBuffer holds one message. Its whole capacity is in b.
type bodyBuffer struct {
	b []byte
}

var (
	bodyPools [maxClass - minClass + 1]sync.Pool
	linePool  = sync.Pool{New: func() any { return &bodyBuffer{b: make([]byte, lineBuffer)} }}
)

// getBody returns a buffer of at least n octets.
func getBody(n int) *bodyBuffer {
	if n > maxPooled {
		return &bodyBuffer{b: make([]byte, n)}
	}
	class := minClass
	if n > minBody {
		class = bits.Len(uint(n - 1))
	}
	if b, ok := bodyPools[class-minClass].Get().(*bodyBuffer); ok {
		return b
	}
	return &bodyBuffer{b: make([]byte, 1<<class)}
}

// free gives b back. A buffer of no class is dropped.
func (b *bodyBuffer) free() {
	n := len(b.b)
	if n < minBody || n > maxPooled || n&(n-1) != 0 {
		return
	}
	bodyPools[bits.Len(uint(n-1))-minClass].Put(b)
}

// Retain keeps m.Bytes for the caller past the return of Data. The returned
// function gives the buffer back to the engine's pool and may be called once,
// from any goroutine; a caller that never calls it leaves the buffer to the
// garbage collector. What Admit granted ends when Data returns either way.
func (m *Message) Retain() (release func()) {
	if m.buf == nil {
		return func() {}
	}
	m.retained = true
	return m.buf.free
}

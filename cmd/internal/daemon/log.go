package daemon

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/shared/config"
)

// Lines of the log are gathered for a moment, since a busy node writes several
// for each message. Warnings and errors go out at once, with all before them.
const (
	logEvery = 50 * time.Millisecond
	logBytes = 32 << 10
)

// logWriter gathers lines. Any number of goroutines may use it.
type logWriter struct {
	mu      sync.Mutex // guards what follows
	w       io.Writer
	buf     []byte
	pending bool // a flush is to come
}

func (l *logWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, line...)
	switch {
	case len(l.buf) >= logBytes:
		l.flushLocked()
	case !l.pending:
		l.pending = true
		time.AfterFunc(logEvery, l.flush)
	}
	return len(line), nil
}

func (l *logWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = false
	l.flushLocked()
}

func (l *logWriter) flushLocked() {
	if len(l.buf) > 0 {
		_, _ = l.w.Write(l.buf) // there is nowhere to say that the log cannot be written
		l.buf = l.buf[:0]
	}
}

// urgent flushes after what must be seen even if the process dies now.
type urgent struct {
	slog.Handler
	w *logWriter
}

func (u urgent) Handle(ctx context.Context, r slog.Record) error {
	err := u.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		u.w.flush()
	}
	return err
}

func (u urgent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return urgent{u.Handler.WithAttrs(attrs), u.w}
}

func (u urgent) WithGroup(name string) slog.Handler { return urgent{u.Handler.WithGroup(name), u.w} }

// logStyle is what of a log may change while it is written.
type logStyle struct {
	level slog.LevelVar
	text  atomic.Bool // not JSON
}

func (s *logStyle) set(c *config.Common) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.Log.Level)); err == nil { // the table allows these only
		s.level.Set(l)
	}
	s.text.Store(c.Log.Format == "text")
}

// styled writes in the form that its style wants at the time.
type styled struct {
	style      *logStyle
	json, text slog.Handler
}

func (h styled) now() slog.Handler {
	if h.style.text.Load() {
		return h.text
	}
	return h.json
}

func (h styled) Enabled(ctx context.Context, l slog.Level) bool  { return h.now().Enabled(ctx, l) }
func (h styled) Handle(ctx context.Context, r slog.Record) error { return h.now().Handle(ctx, r) }
func (h styled) WithGroup(name string) slog.Handler {
	return styled{h.style, h.json.WithGroup(name), h.text.WithGroup(name)}
}

func (h styled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return styled{h.style, h.json.WithAttrs(attrs), h.text.WithAttrs(attrs)}
}

// newLog returns the log of a node and the function that writes what waits.
func newLog(out io.Writer, c *config.Common, style *logStyle) (log *slog.Logger, flush func()) {
	style.set(c)
	w := &logWriter{w: out}
	opts := &slog.HandlerOptions{Level: &style.level}
	h := styled{style, slog.NewJSONHandler(w, opts), slog.NewTextHandler(w, opts)}
	return slog.New(urgent{h, w}).With("node", c.Node), w.flush
}

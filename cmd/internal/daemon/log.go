package daemon

import (
	"context"
	"io"
	"log/slog"
	"sync"
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

// newLog returns the log of a node and the function that writes what waits.
func newLog(out io.Writer, c *config.Common, level *slog.LevelVar) (log *slog.Logger, flush func()) {
	setLevel(level, c.Log.Level)
	w := &logWriter{w: out}
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if c.Log.Format == "text" {
		h = slog.NewTextHandler(w, opts)
	}
	return slog.New(urgent{h, w}).With("node", c.Node), w.flush
}

func setLevel(level *slog.LevelVar, name string) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err == nil { // the table allows these only
		level.Set(l)
	}
}

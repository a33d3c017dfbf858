package voter

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// bridge lets raft log through slog. raft's levels are one step too loud: a
// peer that is away is an "error" to it, several times a second.
type bridge struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = bridge{}

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func (b bridge) Log(l hclog.Level, msg string, args ...any) {
	if !b.log.Enabled(context.Background(), level(l)) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	b.log.Log(context.Background(), level(l), msg, args...)
}

func (b bridge) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }
func (b bridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b bridge) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b bridge) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b bridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b bridge) enabled(l hclog.Level) bool { return b.log.Enabled(context.Background(), level(l)) }

func (b bridge) IsTrace() bool { return b.enabled(hclog.Trace) }
func (b bridge) IsDebug() bool { return b.enabled(hclog.Debug) }
func (b bridge) IsInfo() bool  { return b.enabled(hclog.Info) }
func (b bridge) IsWarn() bool  { return b.enabled(hclog.Warn) }
func (b bridge) IsError() bool { return b.enabled(hclog.Error) }

func (b bridge) ImpliedArgs() []any { return b.args }

func (b bridge) With(args ...any) hclog.Logger {
	return bridge{b.log.With(args...), b.name, append(b.args[:len(b.args):len(b.args)], args...)}
}

func (b bridge) Name() string { return b.name }

func (b bridge) Named(name string) hclog.Logger {
	if b.name != "" {
		name = b.name + "." + name
	}
	return b.ResetNamed(name)
}

func (b bridge) ResetNamed(name string) hclog.Logger { return bridge{b.log, name, b.args} }

func (b bridge) SetLevel(hclog.Level) {}

func (b bridge) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Debug, hclog.Warn} {
		if b.enabled(l) {
			return l
		}
	}
	return hclog.Error
}

func (b bridge) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(b.StandardWriter(o), "", 0)
}

func (b bridge) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lines{b} }

// lines logs what is written to it.
type lines struct{ b bridge }

func (l lines) Write(p []byte) (int, error) {
	l.b.Info(string(p))
	return len(p), nil
}

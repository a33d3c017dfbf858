// Package journal opens a node's record of mail events and lets the admin API
// search it. It is shared by the daemons that see mail.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/tracing"
)

// defaultLimit is how many events an answer has when the caller does not say.
const defaultLimit = 1000

// Config says what is recorded and who is told.
type Config struct {
	Service string // name of the daemon
	Node    string
	Journal config.Journal
	Tracing config.Tracing
	Log     *slog.Logger
	Observe func(*maillog.Event) // is told of each event; nil: nobody
}

// Check reads what Open and Set may refuse.
func Check(t config.Tracing) error {
	if t.Endpoint == "" {
		return nil
	}
	_, err := tracing.Endpoint(t.Endpoint)
	return err
}

// Record is the record of a node, and the way of its events to a collector.
type Record struct {
	*maillog.Log
	cfg   Config
	spans atomic.Pointer[tracing.Exporter]
}

// Open opens the record of a node, which OnClose ends with the node.
func Open(cfg Config, onClose func(name string, c interface{ Close() error })) (*Record, error) {
	r := &Record{cfg: cfg}
	spans, err := r.collector(cfg.Tracing)
	if err != nil {
		return nil, err
	}
	r.spans.Store(spans)
	c := &cfg.Journal
	r.Log, err = maillog.Open(maillog.Config{
		Node: cfg.Node, Logger: cfg.Log, Dir: c.Dir, FileBytes: int64(c.FileSize), Files: c.Files, Observe: r.observe,
	})
	if err != nil {
		return nil, errors.Join(err, spans.Close())
	}
	onClose("traces", closer(func() error { return r.spans.Load().Close() }))
	onClose("record of mail events", r.Log)
	return r, nil
}

type closer func() error

func (f closer) Close() error { return f() }

// collector opens the way to a collector, nil without one.
func (r *Record) collector(c config.Tracing) (*tracing.Exporter, error) {
	return tracing.Open(tracing.Config{
		Endpoint: c.Endpoint, Sample: c.Sample, Service: r.cfg.Service, Node: r.cfg.Node, Version: version.String(), Log: r.cfg.Log,
	})
}

func (r *Record) observe(e *maillog.Event) {
	if r.cfg.Observe != nil {
		r.cfg.Observe(e)
	}
	r.spans.Load().Observe(e)
}

// Set makes other options hold, of which the directory stays, or refuses them. It is
// not called twice at once. To a collector that is another one, what waits for the
// one before is sent first, for a few seconds at most.
func (r *Record) Set(j config.Journal, t config.Tracing) error {
	if t != r.cfg.Tracing {
		next, err := r.collector(t)
		if err != nil {
			return err
		}
		before := r.spans.Swap(next)
		r.cfg.Tracing = t
		if err := before.Close(); err != nil {
			r.cfg.Log.Warn("spans not sent", "err", err)
		}
	}
	if err := r.SetSizes(int64(j.FileSize), j.Files); err != nil {
		r.cfg.Log.Warn("the record of mail events is longer than it should be", "err", err)
	}
	return nil
}

// Handle answers admin.Trace from the record.
func (r *Record) Handle(s *admin.Server) {
	admin.Handle(s, admin.Trace, func(_ context.Context, in admin.TraceRequest) (admin.TraceResult, error) {
		query := in.ID
		if query == "" {
			query = in.Address
		}
		if query == "" || in.ID != "" && in.Address != "" {
			return admin.TraceResult{}, fmt.Errorf("%w: give an id or an address", admin.ErrBadRequest)
		}
		limit := in.Limit
		if limit <= 0 {
			limit = defaultLimit
		}
		events, err := r.Trace(query)
		if err != nil {
			return admin.TraceResult{}, err
		}
		var out admin.TraceResult
		if len(events) > limit {
			events, out.Truncated = events[len(events)-limit:], true
		}
		for i := range events {
			e, err := event(&events[i])
			if err != nil {
				return out, err
			}
			out.Events = append(out.Events, e)
		}
		return out, nil
	})
}

// event spells e as its line of the record does.
func event(e *maillog.Event) (admin.TraceEvent, error) {
	line, err := e.MarshalJSON()
	if err != nil {
		return admin.TraceEvent{}, err
	}
	var all map[string]any
	if err := json.Unmarshal(line, &all); err != nil {
		return admin.TraceEvent{}, err
	}
	out := admin.TraceEvent{Time: e.Time, Node: e.Node, Event: string(e.Kind), ID: e.TraceID, Fields: map[string]string{}}
	for k, v := range all {
		switch k {
		case "time", "node", "event", "msg":
		default:
			out.Fields[k] = fmt.Sprint(v)
		}
	}
	if out.ID == "" {
		out.ID = e.QueueID
	}
	return out, nil
}

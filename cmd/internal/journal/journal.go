// Package journal opens a node's record of mail events and lets the admin API
// search it. It is shared by the daemons that see mail.
package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

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

// Open opens the record of a node, and the way of its events to a collector, which
// OnClose ends with the node.
func Open(cfg Config, onClose func(name string, c interface{ Close() error })) (*maillog.Log, error) {
	observe := cfg.Observe
	spans, err := tracing.Open(tracing.Config{
		Endpoint: cfg.Tracing.Endpoint, Sample: cfg.Tracing.Sample, Service: cfg.Service, Node: cfg.Node, Version: version.String(), Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	if spans != nil {
		onClose("traces", spans)
		observe = func(e *maillog.Event) {
			if cfg.Observe != nil {
				cfg.Observe(e)
			}
			spans.Observe(e)
		}
	}
	c := &cfg.Journal
	l, err := maillog.Open(maillog.Config{
		Node: cfg.Node, Logger: cfg.Log, Dir: c.Dir, FileBytes: int64(c.FileSize), Files: c.Files, Observe: observe,
	})
	if err != nil {
		return nil, err
	}
	onClose("record of mail events", l)
	return l, nil
}

// Handle answers admin.Trace from l.
func Handle(s *admin.Server, l *maillog.Log) {
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
		events, err := l.Trace(query)
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

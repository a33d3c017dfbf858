// Package journal opens a node's record of mail events and lets the admin API
// search it. It is shared by the daemons that see mail.
package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/maillog"
)

// defaultLimit is how many events an answer has when the caller does not say.
const defaultLimit = 1000

// Open opens the record of node as c says. observe, which may be nil, is told of
// each event.
func Open(node string, c config.Journal, log *slog.Logger, observe func(*maillog.Event)) (*maillog.Log, error) {
	return maillog.Open(maillog.Config{
		Node: node, Logger: log, Dir: c.Dir, FileBytes: int64(c.FileSize), Files: c.Files, Observe: observe,
	})
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

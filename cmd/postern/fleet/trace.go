package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/admin"
)

// maxFollowed bounds the messages whose other halves are looked for.
const maxFollowed = 200

// Traced is what is known of messages.
type Traced struct {
	Events    []admin.TraceEvent `json:"events"`
	Truncated bool               `json:"truncated,omitempty"` // some node had more
	Missing   []string           `json:"missing,omitempty"`   // nodes that did not answer
}

// Trace collects every step of a message, by any of its ids, or of the messages
// from or to an address, over all nodes in the order of time. What one node
// knows by another id is asked for by that id in a second round.
func (f *Fleet) Trace(ctx context.Context, what string, limit int) (*Traced, error) {
	req := admin.TraceRequest{ID: strings.Trim(what, "<>"), Limit: limit}
	if looksLikeAddress(what) {
		req = admin.TraceRequest{Address: what, Limit: limit}
	}
	f.Identify(ctx)
	nodes := f.Role(Relay, Backend)
	if len(nodes) == 0 {
		return nil, ErrNobody
	}
	t := &Traced{Events: []admin.TraceEvent{}}
	seen := map[string]bool{}
	silent := t.round(ctx, f, nodes, []admin.TraceRequest{req}, seen)
	if len(silent) == len(nodes) {
		return nil, errors.Join(append([]error{ErrNobody}, silent...)...)
	}
	if len(t.Events) == 0 && req.Address != "" { // a Message-ID looks like an address
		t.round(ctx, f, nodes, []admin.TraceRequest{{ID: strings.Trim(what, "<>"), Limit: limit}}, seen)
	}
	ids := map[string]bool{}
	for _, e := range t.Events {
		for _, id := range []string{e.ID, e.Fields["trace_id"], e.Fields["queue_id"]} {
			if id != "" && id != req.ID && len(ids) < maxFollowed {
				ids[id] = true
			}
		}
	}
	if len(ids) > 0 {
		var more []admin.TraceRequest
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			more = append(more, admin.TraceRequest{ID: id, Limit: limit})
		}
		t.round(ctx, f, nodes, more, seen)
	}
	slices.SortStableFunc(t.Events, func(a, b admin.TraceEvent) int { return a.Time.Compare(b.Time) })
	return t, nil
}

// round puts requests to every node and adds the events that were not seen yet.
func (t *Traced) round(ctx context.Context, f *Fleet, nodes []*Node, reqs []admin.TraceRequest, seen map[string]bool) (silent []error) {
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (out admin.TraceResult, err error) {
		for _, req := range reqs {
			r, e := Call(ctx, n, admin.Trace, req)
			if e != nil && !errors.Is(e, admin.ErrNotFound) {
				return out, e
			}
			out.Events = append(out.Events, r.Events...)
			out.Truncated = out.Truncated || r.Truncated
		}
		return out, nil
	})
	for _, r := range results {
		if r.Err != nil {
			silent = append(silent, r.Err)
			if name := r.Node.Title(); !slices.Contains(t.Missing, name) {
				t.Missing = append(t.Missing, name)
			}
		}
		t.Truncated = t.Truncated || r.Value.Truncated
		for _, e := range r.Value.Events {
			if k := eventKey(&e); !seen[k] {
				seen[k] = true
				t.Events = append(t.Events, e)
			}
		}
	}
	return silent
}

// eventKey is the same for the same event in two answers.
func eventKey(e *admin.TraceEvent) string {
	parts := []string{e.Time.UTC().Format("20060102150405.000000000"), e.Node, e.Event, e.ID}
	for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
		parts = append(parts, k, e.Fields[k])
	}
	return strings.Join(parts, "\x00")
}

func looksLikeAddress(s string) bool { return strings.Contains(s, "@") && !strings.HasPrefix(s, "<") }

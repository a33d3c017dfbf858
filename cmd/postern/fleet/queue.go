package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/shared/admin"
)

// page is how many rows are asked for at once.
const page = 1000

// Queued is a message in the queue of a relay.
type Queued struct {
	Relay string `json:"relay"`
	admin.QueueMessage
}

// relays returns the relay called name, or all of them.
func (f *Fleet) relays(ctx context.Context, name string) ([]*Node, error) {
	f.Identify(ctx)
	nodes := f.Role(Relay)
	if name != "" {
		nodes = slices.DeleteFunc(nodes, func(n *Node) bool { return n.Name != name })
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("no relay %q is known", name)
	}
	return nodes, nil
}

// Queue lists the messages of one relay, or of all when relay is "", up to
// limit of each. silent names the relays that did not answer.
func (f *Fleet) Queue(ctx context.Context, relay string, q admin.QueueQuery, limit int) (msgs []Queued, more bool, silent []error, err error) {
	nodes, err := f.relays(ctx, relay)
	if err != nil {
		return nil, false, nil, err
	}
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (out admin.QueueListing, err error) {
		q := q
		for {
			q.Limit = min(page, limit-len(out.Messages))
			part, err := Call(ctx, n, admin.QueueList, q)
			if err != nil {
				return out, err
			}
			out.Messages = append(out.Messages, part.Messages...)
			if out.More = part.More; !part.More || len(part.Messages) == 0 || len(out.Messages) >= limit {
				return out, nil
			}
			q.After = part.Messages[len(part.Messages)-1].ID
		}
	})
	msgs = []Queued{}
	for _, r := range results {
		if r.Err != nil {
			silent = append(silent, r.Err)
		}
		more = more || r.Value.More
		for _, m := range r.Value.Messages {
			msgs = append(msgs, Queued{r.Node.Name, m})
		}
	}
	if len(silent) == len(nodes) {
		return nil, false, nil, errors.Join(silent...)
	}
	slices.SortStableFunc(msgs, func(a, b Queued) int { return a.Arrival.Compare(b.Arrival) })
	return msgs, more, silent, nil
}

// QueuedMessage finds a message by its id, on one relay or on all.
func (f *Fleet) QueuedMessage(ctx context.Context, relay, id string) (*Queued, error) {
	nodes, err := f.relays(ctx, relay)
	if err != nil {
		return nil, err
	}
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.QueueMessage, error) {
		return Call(ctx, n, admin.QueueShow, admin.QueueID{ID: id})
	})
	for _, r := range results {
		if r.Err == nil {
			return &Queued{r.Node.Name, r.Value}, nil
		}
	}
	return nil, notThere(results, "message "+id)
}

// Act calls a method that changes a queued message, on the relay that has it.
func (f *Fleet) Act(ctx context.Context, relay string, m admin.Method[admin.QueueID, admin.None], id string) (by string, err error) {
	nodes, err := f.relays(ctx, relay)
	if err != nil {
		return "", err
	}
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.None, error) {
		return Call(ctx, n, m, admin.QueueID{ID: id})
	})
	for _, r := range results {
		if r.Err == nil {
			return r.Node.Name, nil
		}
	}
	return "", notThere(results, "message "+id)
}

// notThere is the error when no node had what was asked for: what a node said
// about it, or that nobody has it, with the nodes that might.
func notThere[T any](results []Result[T], what string) error {
	for _, r := range results {
		if Refused(r.Err) && !errors.Is(r.Err, admin.ErrNotFound) {
			return r.Err
		}
	}
	err := fmt.Errorf("no %s", what)
	if silent := Unreachable(results); len(silent) > 0 {
		err = errors.Join(append([]error{fmt.Errorf("no %s where it could be asked for", what)}, silent...)...)
	}
	return err
}

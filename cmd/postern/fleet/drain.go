package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// Emptied is how far a relay that drains has come.
type Emptied struct {
	Node        string `json:"node"`
	Draining    bool   `json:"draining"`
	Connections int    `json:"connections"` // of SMTP
	Queued      int    `json:"queued"`      // not delivered; held messages are not counted
	Held        int    `json:"held"`
	Sessions    int    `json:"sessions"` // of IMAP and POP3, which go on
	Flushed     int    `json:"flushed"`
}

// Done reports whether no mail is under way any more.
func (e *Emptied) Done() bool { return e.Connections == 0 && e.Queued == 0 }

// AwaitEmpty waits, for a time at most, until no SMTP connection is open at a relay
// that drains and its queue is empty. Deferred messages wait for their time; with
// flush they are tried at once first. IMAP and POP3 sessions may last for days and
// are not waited for. What is left then is told, and no error.
func (f *Fleet) AwaitEmpty(ctx context.Context, node string, wait time.Duration, flush bool) (*Emptied, error) {
	n, err := f.Find(node)
	if err != nil {
		return nil, err
	}
	out := &Emptied{Node: node, Draining: true}
	if flush {
		if out.Flushed, err = f.retryAll(ctx, n); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		s, err := f.status(ctx, n)
		if err == nil {
			out.Connections, out.Sessions = s.Connections, s.Sessions
			if q := s.Queue; q != nil {
				out.Queued, out.Held = q.Queued-q.Held, q.Held
			}
			if out.Done() {
				return out, nil
			}
		}
		if !pause(ctx, 2*askAgain) {
			if err != nil && ctx.Err() == nil {
				return nil, err
			}
			return out, nil
		}
	}
}

func (f *Fleet) status(ctx context.Context, n *Node) (admin.NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return Call(ctx, n, admin.GetStatus, admin.None{})
}

// retryAll has every deferred message of a relay tried now.
func (f *Fleet) retryAll(ctx context.Context, n *Node) (tried int, err error) {
	q := admin.QueueQuery{State: "deferred"}
	for {
		list, err := f.listed(ctx, n, q)
		if err != nil {
			return tried, err
		}
		for _, m := range list.Messages {
			q.After = m.ID
			switch err := f.retry(ctx, n, m.ID); {
			case err == nil:
				tried++
			case !errors.Is(err, admin.ErrNotFound): // delivered meanwhile
				return tried, err
			}
		}
		if !list.More || len(list.Messages) == 0 {
			return tried, nil
		}
	}
}

func (f *Fleet) listed(ctx context.Context, n *Node, q admin.QueueQuery) (admin.QueueListing, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return Call(ctx, n, admin.QueueList, q)
}

func (f *Fleet) retry(ctx context.Context, n *Node, id string) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	_, err := Call(ctx, n, admin.QueueRetry, admin.QueueID{ID: id})
	return err
}

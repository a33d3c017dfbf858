package fleet

import (
	"context"
	"errors"

	"github.com/postern-mail/postern/shared/admin"
)

// Flushed is what one relay has forgotten.
type Flushed struct {
	Relay     string `json:"relay"`
	Forgotten int    `json:"forgotten"`
}

// Flush makes one relay, or all when relay is "", forget answers of the
// directory. The error names the relays that have not; the others have.
func (f *Fleet) Flush(ctx context.Context, relay string, in admin.FlushRequest) (done []Flushed, err error) {
	nodes, err := f.relays(ctx, relay)
	if err != nil {
		return nil, err
	}
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.FlushResult, error) {
		return Call(ctx, n, admin.Flush, in)
	})
	done = []Flushed{}
	for _, r := range results {
		if r.Err != nil {
			err = errors.Join(err, r.Err)
			continue
		}
		done = append(done, Flushed{r.Node.Name, r.Value.Forgotten})
	}
	return done, err
}

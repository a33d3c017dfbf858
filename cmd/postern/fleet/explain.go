package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/shared/admin"
)

// Explain asks one relay what it would do with mail for an address: the one
// called relay, or the first that answers.
func (f *Fleet) Explain(ctx context.Context, relay string, in admin.ExplainRequest) (*admin.ExplainResult, error) {
	f.Identify(ctx)
	nodes := f.Role(Relay)
	if relay != "" {
		n, err := f.Find(relay)
		if err != nil {
			return nil, err
		}
		nodes = []*Node{n}
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("%w: no relay among the nodes that are known", ErrNobody)
	}
	var errs []error
	for _, n := range nodes {
		call, cancel := context.WithTimeout(ctx, f.timeout)
		out, err := Call(call, n, admin.Explain, in)
		cancel()
		if err == nil || Refused(err) {
			return &out, err
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrNobody, errors.Join(errs...))
}

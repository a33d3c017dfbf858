package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/postern-mail/postern/shared/directory"
)

// selection is the answer to a search: its entries, or that they are more than
// the cache remembers of one.
type selection struct {
	entries []*directory.Entry
	long    bool
}

// Search implements directory.Directory. Answers of Config.Selected entries and
// less are remembered; of longer ones only that they are long, so that they pass
// through from the directory without being held here, each time they are asked
// for. While the directory fails they fail too.
func (c *Cache) Search(ctx context.Context, url string, limit int) iter.Seq2[*directory.Entry, error] {
	return func(yield func(*directory.Entry, error) bool) {
		found, err := c.selection(ctx, url)
		switch {
		case err != nil:
			yield(nil, err)
			return
		case found.long && limit <= c.cfg.Selected:
			yield(nil, fmt.Errorf("search %s: %w (%d)", url, directory.ErrTooMany, limit))
			return
		case found.long:
			for e, err := range c.under.Search(ctx, url, limit) {
				if !yield(e, err) {
					return
				}
			}
			return
		}
		for i, e := range found.entries {
			if i == limit {
				yield(nil, fmt.Errorf("search %s: %w (%d)", url, directory.ErrTooMany, limit))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// selection is what is known of the entries that url selects, whatever the
// limit.
func (c *Cache) selection(ctx context.Context, url string) (*selection, error) {
	var buf [keySize]byte
	key := append(buf[:0], url...)
	if f := hit(c, c.searches, Searches, key); f.slot != nil {
		return f.answer()
	}
	return miss(ctx, c, c.searches, Searches, key, 0, func(ctx context.Context) (*selection, error) {
		list, err := directory.Collect(c.under.Search(ctx, url, c.cfg.Selected))
		if errors.Is(err, directory.ErrTooMany) {
			return &selection{long: true}, nil
		}
		if err != nil {
			return nil, err
		}
		return &selection{entries: list}, nil
	})
}

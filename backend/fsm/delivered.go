//go:build !planted_key

package fsm

import (
	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// delivered looks up a key among all that were applied, those of this batch
// included.
func (f *FSM) delivered(key command.Key) (d store.Delivered, ok bool, err error) {
	if d, ok = f.keys[key]; !ok {
		ok, err = f.batch.Delivered(key, &d)
	}
	return d, ok, err
}

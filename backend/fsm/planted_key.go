//go:build planted_key

package fsm

import (
	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// Planted: a key is looked up as it was when the delivery was received, and not
// when it is applied: what else is on its way is not seen.
func (f *FSM) delivered(key command.Key) (d store.Delivered, ok bool, err error) {
	if _, onItsWay := f.keys[key]; onItsWay {
		return d, false, nil
	}
	ok, err = f.batch.Delivered(key, &d)
	return d, ok, err
}

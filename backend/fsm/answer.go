package fsm

import (
	"time"

	"github.com/postern-mail/postern/backend/command"
)

const (
	// MaxAnswered bounds the senders that an account remembers to have
	// answered. Beyond it nobody new is answered until some are forgotten:
	// a missing answer harms less than a second one.
	MaxAnswered = 20_000
	// maxAnsweredLife bounds how long a sender is remembered.
	maxAnsweredLife = 400 * 24 * time.Hour
)

// answer decides whether a delivery to a is answered, and if so remembers that
// the sender has the answer.
func (f *FSM) answer(a *account, q *command.Autoreply) (bool, error) {
	if q.Seconds == 0 {
		return true, nil
	}
	until, err := f.batch.Answered(a.ID, q.Hash)
	if err != nil || until > f.now {
		return false, err
	}
	if until == 0 {
		n, err := f.batch.AnsweredCount(a.ID)
		if err != nil || n >= f.maxAnswered {
			return false, err
		}
	}
	until = f.now + int64(min(time.Duration(q.Seconds)*time.Second, maxAnsweredLife))
	f.due = min(f.due, until)
	return true, f.batch.PutAnswered(a.ID, q.Hash, until)
}

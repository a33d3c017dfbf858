package fsm

import (
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

const (
	// MaxAnswered bounds the senders that an account remembers to have
	// answered. Beyond it nobody new is answered until some are forgotten:
	// a missing answer harms less than a second one.
	MaxAnswered = 20_000
	// maxAnsweredLife bounds how long a sender is remembered.
	maxAnsweredLife = 400 * 24 * time.Hour
)

// answer decides whether a delivery to a is answered, or whether an answer is
// given to who claims it, and remembers that.
func (f *FSM) answer(a *account, q *command.Autoreply) (bool, error) {
	if q.Seconds == 0 {
		return true, nil
	}
	was, err := f.batch.Answered(a.ID, q.Hash)
	if err != nil {
		return false, err
	}
	now := store.Answered{Until: was.Until, Open: q.Later, By: q.By}
	if was.Until > f.now {
		free := was.By == (command.Key{})
		switch {
		case q.Later: // due until it is claimed
			return was.Open, nil
		case q.By == (command.Key{}) || !free: // the one that has claimed it claims it again
			return !free && was.By == q.By, nil
		}
		return true, f.batch.PutAnswered(a.ID, q.Hash, now)
	}
	if was.Until == 0 {
		n, err := f.batch.AnsweredCount(a.ID)
		if err != nil || n >= f.maxAnswered {
			return false, err
		}
	}
	now.Until = f.now + int64(min(time.Duration(q.Seconds)*time.Second, maxAnsweredLife))
	f.due = min(f.due, now.Until)
	return true, f.batch.PutAnswered(a.ID, q.Hash, now)
}

// stillDue reports whether an answer that is due to a delivery is still to be
// claimed.
func (f *FSM) stillDue(a *account, q *command.Autoreply) (bool, error) {
	was, err := f.batch.Answered(a.ID, q.Hash)
	return was.Until > f.now && was.By == (command.Key{}), err
}

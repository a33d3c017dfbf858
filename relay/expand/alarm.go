package expand

import (
	"log/slog"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// Alarms about one thing are raised once an hour at most (directory.md 7).
const (
	alarmPause = time.Hour
	maxAlarms  = 1000 // things remembered; when full, all are forgotten
)

// alarms tells operators what is wrong in the directory.
type alarms struct {
	log  *slog.Logger
	mu   sync.Mutex // guards last
	last map[alarm]time.Time
}

type alarm struct{ what, where string }

// raise logs what is wrong with the entry or name at where, found when mail
// for a came.
func (l *alarms) raise(what, where string, a mail.Address, err error) {
	k := alarm{what, where}
	if where == "" {
		k.where = a.Key()
	}
	now := time.Now()
	l.mu.Lock()
	at, known := l.last[k]
	quiet := known && now.Sub(at) < alarmPause
	if !quiet {
		if l.last == nil || len(l.last) >= maxAlarms {
			l.last = map[alarm]time.Time{}
		}
		l.last[k] = now
	}
	l.mu.Unlock()
	if quiet {
		return
	}
	args := []any{"where", where, "address", a.String()}
	if err != nil {
		args = append(args, "error", err)
	}
	l.log.Error("directory: "+what, args...)
}

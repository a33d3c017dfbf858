package autoreply

import (
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// maxCounted bounds the people and senders that are counted in an hour; beyond
// it, nobody new is answered in that hour.
const maxCounted = 100_000

// limit counts answers by person and by sender, hour by hour.
type limit struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	perHour int
	hour    time.Time // begin of the hour being counted
	count   map[string]int
}

// set changes what is left of this hour too.
func (l *limit) set(perHour int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.perHour = perHour
}

func limitKeys(sender mail.Address, r *mail.Recipient) [2]string {
	return [2]string{"from " + sender.Key(), "for " + r.Mailbox}
}

// reserve counts an answer that may be made, and reports whether it may.
func (l *limit) reserve(sender mail.Address, r *mail.Recipient) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if age := now.Sub(l.hour); age >= time.Hour || age < 0 {
		l.hour, l.count = now, map[string]int{}
	}
	keys := limitKeys(sender, r)
	if len(l.count)+len(keys) > maxCounted {
		return false
	}
	for _, k := range keys {
		if l.count[k] >= l.perHour {
			return false
		}
	}
	for _, k := range keys {
		l.count[k]++
	}
	return true
}

// release takes back a reservation: no answer is to be made.
func (l *limit) release(sender mail.Address, r *mail.Recipient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range limitKeys(sender, r) {
		switch n := l.count[k]; { // of another hour perhaps
		case n > 1:
			l.count[k] = n - 1
		case n == 1:
			delete(l.count, k)
		}
	}
}

package mailbox

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/command"
)

const (
	// knownFor is how long a message can be named after it was stored. It is far
	// below the age at which a segment of the log may be rewritten: until then the
	// octets lie where they were, whoever has expunged the message.
	knownFor = 15 * time.Minute
	// maxKnown is how many messages can be named, maxKnownSize how long the
	// description of one may be.
	maxKnown     = 256
	maxKnownSize = 64 << 10
)

// BodyName names the octets of Delivery.Message: their SHA-256.
type BodyName [sha256.Size]byte

// Known is a message that this replica has stored as it served, so that it need
// not be sent again for more recipients.
type Known struct{ message command.Message }

// Size is the length of the message as stored.
func (k *Known) Size() int64 { return k.message.Size }

// knownKey tells messages apart: the same octets from another sender, or on
// another occasion, are another message.
type knownKey struct {
	traceID, trace string
	name           BodyName
}

// bodies are the messages that can be named.
type bodies struct {
	mu    sync.Mutex // guards the fields below
	byKey map[knownKey]*list.Element
	order list.List // of knownEntry, the oldest first
}

type knownEntry struct {
	key knownKey
	at  time.Time
	k   *Known
}

func (b *bodies) get(key knownKey, now time.Time) *Known {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.byKey[key]
	if !ok || now.Sub(e.Value.(knownEntry).at) >= knownFor {
		return nil
	}
	return e.Value.(knownEntry).k
}

func (b *bodies) put(key knownKey, m command.Message, now time.Time) {
	if len(m.Body) == 0 || len(m.Meta)+16*len(m.Body) > maxKnownSize {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byKey == nil {
		b.byKey = map[knownKey]*list.Element{}
	}
	if _, ok := b.byKey[key]; ok {
		return // the first one is as good, and its time counts
	}
	for e := b.order.Front(); e != nil; e = b.order.Front() {
		if old := e.Value.(knownEntry); len(b.byKey) < maxKnown && now.Sub(old.at) < knownFor {
			break
		}
		b.order.Remove(e)
		delete(b.byKey, e.Value.(knownEntry).key)
	}
	b.byKey[key] = b.order.PushBack(knownEntry{key, now, &Known{m}})
}

func (d *Delivery) key(name BodyName) knownKey {
	return knownKey{traceID: d.TraceID, trace: string(d.Trace), name: name}
}

// Known finds the message called name that was delivered with the TraceID and
// the Trace of d a short while ago; nil when this replica does not have it or
// has forgotten that it has.
func (s *Service) Known(d *Delivery, name BodyName) *Known {
	if d.TraceID == "" {
		return nil
	}
	return s.bodies.get(d.key(name), s.cfg.Now())
}

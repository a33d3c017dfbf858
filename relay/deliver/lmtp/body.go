package lmtp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// paramBody, on MAIL, is how the message of a large list travels once: "new",
// there may be more transactions with it, or its name, it is the one that the
// peer was given before.
const paramBody = "XBODY"

const (
	// namedFrom is how many recipients make it worth while to name a message.
	namedFrom = 100
	// namedFor is how long a peer is trusted to know a message; the peer's own
	// time is longer. maxNamed is how many messages of all peers are remembered.
	namedFor = 10 * time.Minute
	maxNamed = 256
)

// bodyName is the SHA-256 of a message.
type bodyName [sha256.Size]byte

// bodyKey is a message that a node was given.
type bodyKey struct {
	node, root, from string
	name             bodyName
}

// given is what is known of a message at a node.
type given struct {
	since time.Time
	done  chan struct{} // closed when it is known whether the node has it
	has   bool          // valid then
}

// bodies remembers which messages nodes were given.
type bodies struct {
	mu    sync.Mutex // guards the fields below
	byKey map[bodyKey]*given
	roots map[string]int // keys in byKey of each root message
}

// nameOf names the message of d when it is going to be sent more than once:
// to many, or to some more of a root message that was named before. False also
// for one that would be changed on its way.
func (b *bodies) nameOf(d *deliver.Delivery) (name bodyName, ok bool) {
	last := byte(0)
	for _, seg := range d.Body {
		if len(seg) > 0 {
			last = seg[len(seg)-1]
		}
	}
	if last != '\n' || len(d.Recipients) < namedFrom && !b.follows(d.Envelope.RootID) {
		return name, false
	}
	h := sha256.New()
	for _, seg := range d.Body {
		h.Write(seg)
	}
	h.Sum(name[:0])
	return name, true
}

func (b *bodies) follows(root string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roots[root] > 0
}

// claim reports whether the node has the message. Otherwise the caller is to
// send it, and to call settle with whether it is there now; whoever asks
// meanwhile waits for that.
func (b *bodies) claim(ctx context.Context, key bodyKey) (has bool, settle func(bool)) {
	for {
		g, mine := b.look(key)
		if mine {
			return false, func(has bool) { b.settle(key, g, has) }
		}
		select {
		case <-g.done:
			if g.has {
				return true, func(bool) {}
			}
		case <-ctx.Done():
			return false, func(bool) {}
		}
	}
}

func (b *bodies) look(key bodyKey) (g *given, mine bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byKey == nil {
		b.byKey, b.roots = map[bodyKey]*given{}, map[string]int{}
	}
	now := time.Now()
	if g = b.byKey[key]; g != nil && now.Sub(g.since) < namedFor {
		return g, false
	}
	for k, old := range b.byKey {
		if len(b.byKey) >= maxNamed || now.Sub(old.since) >= namedFor {
			b.remove(k)
		}
	}
	g = &given{since: now, done: make(chan struct{})}
	b.byKey[key] = g
	b.roots[key.root]++
	return g, true
}

// remove takes a key off that is there. The caller holds mu.
func (b *bodies) remove(key bodyKey) {
	delete(b.byKey, key)
	if b.roots[key.root]--; b.roots[key.root] == 0 {
		delete(b.roots, key.root)
	}
}

func (b *bodies) settle(key bodyKey, g *given, has bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !has && b.byKey[key] == g {
		b.remove(key)
	}
	g.has = has
	close(g.done)
}

// forget takes a message off that the node does not have after all.
func (b *bodies) forget(key bodyKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.byKey[key]; g != nil && g.has {
		b.remove(key)
	}
}

// exchange runs the transaction with n, by the name of the message when n has
// it.
func (t *try) exchange(ctx context.Context, n *node, c *smtp.Client, s *scratch) (*smtp.Result, error) {
	if !t.named || !t.names {
		return c.Send(ctx, s.transaction(t, ""))
	}
	env := t.d.Envelope
	key := bodyKey{node: n.name, root: env.RootID, from: env.ReversePath.String(), name: t.name}
	for {
		has, settle := t.a.bodies.claim(ctx, key)
		if !has {
			res, err := c.Send(ctx, s.transaction(t, "new"))
			settle(stored(res))
			return res, err
		}
		res, err := c.Send(ctx, s.transaction(t, hex.EncodeToString(t.name[:])))
		if err != nil || res.Mail == nil || res.Mail.Status != mail.StatusUnknownBody || !c.Usable() {
			return res, err
		}
		t.a.bodies.forget(key) // restarted, or another process under the same name
	}
}

// stored reports whether the peer has the message now.
func stored(res *smtp.Result) bool {
	if res == nil {
		return false
	}
	for _, r := range res.Data {
		if r != nil && r.OK() {
			return true
		}
	}
	return false
}

package raftnet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limits of questions after what another member has stored.
const (
	maxAskers  = 4        // connections of a group at a time, from others
	maxAnswer  = 2 << 20  // an entry of 1 MB and then some
	askRate    = 20 << 20 // octets of answers a second, of a group
	askCost    = 64 << 10 // what an answer counts at least
	askTime    = 10 * time.Second
	maxAskWait = 2 * time.Second // for the rate; then the asker is told to come later
)

const (
	kindEntry = 20
	kindMark  = 21
)

// Errors of Entry and Mark, beside those of the connection. They come wrapped.
var (
	// ErrGone: the other member has no such entry. That stays so.
	ErrGone = errors.New("the other member does not have it")
	// ErrDamaged: it cannot read the entry either.
	ErrDamaged = errors.New("damaged at the other member too")
	// ErrLater: it is busy. That passes.
	ErrLater = errors.New("the other member is busy")
)

// Codes of an answer; what follows one that is not askGood is a text.
const (
	askGood    = 0
	askGone    = 1
	askDamaged = 2
	askLater   = 3
	askRefused = 4
)

// Giver is a Handler that says what is stored here. Its errors wrap ErrGone,
// ErrDamaged or ErrLater, or are refusals.
type Giver interface {
	// Entry returns an entry of the log for the member from, as
	// seglog.Log.ExportEntry gives it.
	Entry(from string, index uint64) ([]byte, error)
	// Mark returns the digest of the state that was noted last, and the entry
	// where it was.
	Mark(from string) (index uint64, digest [16]byte, err error)
}

// pace spreads answers over time.
type pace struct {
	mu   sync.Mutex
	next time.Time // when the next answer may be made
}

// take returns how long the next answer has to wait, or
// false if that is too long.
func (p *pace) take(now time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := max(p.next.Sub(now), 0)
	return wait, wait <= maxAskWait
}

func (p *pace) spent(now time.Time, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(max(n, askCost)) * time.Second / askRate)
}

// serveAsks answers one question after the other.
func (t *Transport) serveAsks(l *link, from string) error {
	if t.askers.Add(1) > maxAskers {
		t.askers.Add(-1)
		return l.refuse("too many at a time")
	}
	defer t.askers.Add(-1)
	l.limit = smallBuffer
	for {
		kind, body, _, err := l.receive()
		if err != nil {
			return err
		}
		index, err := decodeAsk(kind, body)
		if err != nil {
			return err
		}
		b, err := t.answer(kind, from, index)
		w := l.begin(kind | replyBit)
		w.answer(b, err)
		l.deadline(askTime)
		if err := l.finish(0); err != nil {
			return err
		}
		if err := l.flush(); err != nil {
			return err
		}
		l.deadline(0)
	}
}

// decodeAsk returns the entry that is asked for, 0 in a question for the mark.
func decodeAsk(kind uint8, body []byte) (index uint64, err error) {
	r := reader{b: body}
	switch kind {
	case kindEntry:
		index = r.u64()
		return index, r.end()
	case kindMark:
		return 0, r.end()
	}
	return 0, fmt.Errorf("%w: kind %d", errMessage, kind)
}

func (t *Transport) answer(kind uint8, from string, index uint64) ([]byte, error) {
	g, ok := t.cfg.Handler.(Giver)
	if !ok {
		return nil, errors.New("this member gives nothing")
	}
	if kind == kindMark {
		at, digest, err := g.Mark(from)
		var w writer
		w.u64(at)
		w.b = append(w.b, digest[:]...)
		return w.b, err
	}
	wait, ok := t.pace.take(time.Now())
	if !ok {
		return nil, ErrLater
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.done:
			return nil, ErrLater
		}
	}
	b, err := g.Entry(from, index)
	t.pace.spent(time.Now(), len(b))
	if err == nil && len(b) >= maxAnswer {
		return nil, fmt.Errorf("entry %d takes %d octets", index, len(b))
	}
	return b, err
}

// answer writes an answer or why there is none.
func (w *writer) answer(b []byte, err error) {
	switch {
	case err == nil:
		w.u8(askGood)
		w.b = append(w.b, b...)
		return
	case errors.Is(err, ErrGone):
		w.u8(askGone)
	case errors.Is(err, ErrDamaged):
		w.u8(askDamaged)
	case errors.Is(err, ErrLater):
		w.u8(askLater)
	default:
		w.u8(askRefused)
	}
	text := err.Error()
	w.b = append(w.b, text[:min(len(text), smallBuffer)]...)
}

// decodeAnswer returns what follows a good answer, a part of b.
func decodeAnswer(b []byte) ([]byte, error) {
	r := reader{b: b}
	code := r.u8()
	if r.err != nil {
		return nil, r.err
	}
	var class error
	switch code {
	case askGood:
		return r.b, nil
	case askGone:
		class = ErrGone
	case askDamaged:
		class = ErrDamaged
	case askLater:
		class = ErrLater
	default:
		class = ErrRefused
	}
	return nil, fmt.Errorf("%w: %s", class, r.b)
}

func decodeMark(b []byte) (index uint64, digest [16]byte, err error) {
	r := reader{b: b}
	index = r.u64()
	copy(digest[:], r.take(len(digest)))
	return index, digest, r.end()
}

// ask puts a question to a member.
func (t *Transport) ask(ctx context.Context, id, addr string, kind uint8, body func(*writer), read func([]byte) error) error {
	var answered error
	err := t.call(ctx, id, addr, forAsk, kind, askTime,
		func(l *link) error {
			l.limit = maxAnswer
			body(l.begin(kind))
			if err := l.finish(0); err != nil {
				return err
			}
			return l.flush()
		},
		func(b []byte) error {
			if b, answered = decodeAnswer(b); answered != nil {
				return nil // the connection is good
			}
			return read(b)
		})
	if said := remote(""); errors.As(err, &said) {
		return fmt.Errorf("%w: %s", ErrRefused, said)
	}
	return errors.Join(err, answered)
}

// Entry asks a member for an entry of its log. The octets are the caller's to
// check.
func (t *Transport) Entry(ctx context.Context, id, addr string, index uint64) (entry []byte, err error) {
	err = t.ask(ctx, id, addr, kindEntry,
		func(w *writer) { w.u64(index) },
		func(b []byte) error { entry = append([]byte(nil), b...); return nil })
	return entry, err
}

// Mark asks a member for the digest that it noted last.
func (t *Transport) Mark(ctx context.Context, id, addr string) (index uint64, digest [16]byte, err error) {
	err = t.ask(ctx, id, addr, kindMark,
		func(*writer) {},
		func(b []byte) (err error) { index, digest, err = decodeMark(b); return err })
	return index, digest, err
}

package raftnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// giver has the entries 1 to 9.
type giver struct{ silent }

func (giver) Entry(from string, index uint64) ([]byte, error) {
	switch {
	case index == 7:
		return nil, fmt.Errorf("%w: a frame", ErrDamaged)
	case index == 8:
		return make([]byte, maxAnswer), nil
	case index > 9:
		return nil, ErrGone
	case from != "a":
		return nil, errors.New("not to you")
	}
	return bytes.Repeat([]byte{byte(index)}, 100_000), nil
}

func (giver) Mark(string) (uint64, [16]byte, error) { return 3, [16]byte{1, 15: 2}, nil }

func TestAsk(t *testing.T) {
	cert, pool := selfSigned(t)
	b := newEnd(t, "b", cert, pool, func(c *Config) { c.Handler = giver{} })
	a := newEnd(t, "a", cert, pool, func(c *Config) { c.Port = nil }) // it only asks
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	entry, err := a.t.Entry(ctx, "b", b.addr, 5)
	if err != nil || !bytes.Equal(entry, bytes.Repeat([]byte{5}, 100_000)) {
		t.Errorf("%d octets, %v", len(entry), err)
	}
	index, digest, err := a.t.Mark(ctx, "b", b.addr)
	if err != nil || index != 3 || digest != [16]byte{1, 15: 2} {
		t.Errorf("mark %d %x, %v", index, digest, err)
	}
	for index, want := range map[uint64]error{7: ErrDamaged, 8: ErrRefused, 10: ErrGone} {
		if entry, err := a.t.Entry(ctx, "b", b.addr, index); !errors.Is(err, want) || len(entry) > 0 {
			t.Errorf("entry %d: %d octets, %v, want %v", index, len(entry), err, want)
		}
	}
	c := newEnd(t, "c", cert, pool, nil)
	if _, err := c.t.Entry(ctx, "b", b.addr, 5); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not to you") {
		t.Errorf("another member reads %v", err)
	}
	if _, err := b.t.Entry(ctx, "c", c.addr, 5); !errors.Is(err, ErrRefused) {
		t.Errorf("a member that gives nothing answers %v", err)
	}
	stranger := newEnd(t, "stranger", cert, pool, nil)
	if _, err := stranger.t.Entry(ctx, "b", b.addr, 5); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("a stranger reads %v", err)
	}
}

// TestAskersAreFew opens more connections for questions than are answered.
func TestAskersAreFew(t *testing.T) {
	cert, pool := selfSigned(t)
	b := newEnd(t, "b", cert, pool, func(c *Config) { c.Handler = giver{} })
	a := newEnd(t, "a", cert, pool, nil)
	refused := 0
	for range maxAskers + 1 {
		l, err := a.t.dial(t.Context(), "b", b.addr, forAsk)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		l.begin(kindMark)
		if err := errors.Join(l.finish(0), l.flush()); err != nil {
			t.Fatal(err)
		}
		l.deadline(10 * time.Second)
		if kind, _, _, err := l.receive(); err == nil && kind == kindError {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d of %d connections refused", refused, maxAskers+1)
	}
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	if wait, ok := p.take(now); wait != 0 || !ok {
		t.Errorf("the first waits %v, %t", wait, ok)
	}
	p.spent(now, askRate) // a second's worth
	if wait, ok := p.take(now); wait != time.Second || !ok {
		t.Errorf("the second waits %v, %t", wait, ok)
	}
	p.spent(now, 0)
	if wait, _ := p.take(now); wait <= time.Second {
		t.Errorf("a small answer costs nothing: %v", wait)
	}
	p.spent(now, 2*askRate)
	if _, ok := p.take(now); ok {
		t.Error("one waits for longer than anybody should")
	}
	if wait, ok := p.take(now.Add(time.Minute)); wait != 0 || !ok {
		t.Errorf("a minute later one waits %v, %t", wait, ok)
	}
}

func FuzzAsk(f *testing.F) {
	var w writer
	w.answer([]byte("entry"), nil)
	f.Add(uint8(kindEntry), w.b)
	f.Add(uint8(kindEntry), []byte{5, 0, 0, 0, 0, 0, 0, 0})
	f.Add(uint8(kindMark), append([]byte{askGood}, make([]byte, 24)...))
	f.Add(uint8(kindMark), []byte{})
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		if index, err := decodeAsk(kind, b); err == nil {
			var w writer
			if kind == kindEntry {
				w.u64(index)
			}
			if !bytes.Equal(w.b, b) {
				t.Errorf("question %x became %x", b, w.b)
			}
		}
		got, err := decodeAnswer(b)
		if err == nil && (b[0] != askGood || !bytes.Equal(got, b[1:])) {
			t.Errorf("answer %x became %x", b, got)
		}
		if index, digest, err := decodeMark(got); err == nil {
			var w writer
			w.u64(index)
			if !bytes.Equal(append(w.b, digest[:]...), got) {
				t.Errorf("mark %x became %d %x", got, index, digest)
			}
		}
	})
}

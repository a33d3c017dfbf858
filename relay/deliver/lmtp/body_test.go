package lmtp

import (
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/shared/mail"
)

func size(d *deliver.Delivery) (n int) {
	for _, b := range d.Body {
		n += len(b)
	}
	return n
}

// undelivered counts the recipients of d that do not have its message once.
func undelivered(t *testing.T, s *lmtptest.Sink, d *deliver.Delivery) (wrong int) {
	t.Helper()
	var body string
	for _, b := range d.Body {
		body += string(b)
	}
	got := map[string]int{}
	for _, m := range s.Stored() {
		if m.Body == body {
			got[m.To.String()]++
		}
	}
	for _, r := range d.Recipients {
		if got[r.Mailbox] != 1 {
			wrong++
		}
	}
	return wrong
}

// TestBodyOnce: the message of a list travels once, however many transactions
// there are, at once or one after the other.
func TestBodyOnce(t *testing.T) {
	s := sink(t, nil, lmtptest.Names)
	a := agent(t, Config{Routes: pair(s), MaxRecipients: 100})
	whole := delivery(1203)
	var wg sync.WaitGroup
	for _, part := range []struct{ from, to int }{{0, 500}, {500, 1000}, {1000, 1200}} {
		wg.Go(func() {
			d := *whole
			d.Recipients = whole.Recipients[part.from:part.to]
			a.Deliver(t.Context(), &d)
		})
	}
	wg.Wait()
	d := *whole
	d.Recipients = whole.Recipients[1200:] // a last piece of few
	a.Deliver(t.Context(), &d)
	if n := undelivered(t, s, whole); n > 0 {
		t.Errorf("%d recipients without the message", n)
	}
	if _, n, _, _ := s.Counts(); n != 13 || s.Octets() != size(whole) {
		t.Errorf("%d octets in %d transactions, the message has %d", s.Octets(), n, size(whole))
	}

	// Another message of the same root, and another root with the same message.
	other, same := delivery(100), delivery(100)
	other.Body = [][]byte{[]byte("Subject: other\r\n\r\n")}
	env := *same.Envelope
	env.RootID = "another"
	same.Envelope = &env
	for i := range 100 {
		other.Recipients[i].Key = mail.NewDeliveryKey("o", "x", other.Recipients[i].Mailbox)
		same.Recipients[i].Key = mail.NewDeliveryKey("o", "y", other.Recipients[i].Mailbox)
	}
	before := s.Octets()
	for _, d := range []*deliver.Delivery{other, same} {
		a.Deliver(t.Context(), d)
	}
	if n := undelivered(t, s, other); n > 0 || s.Octets()-before != size(other)+size(same) {
		t.Errorf("%d recipients without the other message, %d octets", n, s.Octets()-before)
	}
}

// TestBodyForgotten: a node that has restarted gets the message again; one that
// does not know the word always gets it.
func TestBodyForgotten(t *testing.T) {
	for name, tt := range map[string]struct {
		opts []lmtptest.Option
		want int // times that the message travels
	}{"forgets": {[]lmtptest.Option{lmtptest.Names}, 2}, "never knew": {nil, 4}} {
		t.Run(name, func(t *testing.T) {
			s := sink(t, nil, tt.opts...)
			a := agent(t, Config{Routes: pair(s), MaxRecipients: 100})
			whole := delivery(400)
			for i := range 2 {
				d := *whole
				d.Recipients = whole.Recipients[i*200 : (i+1)*200]
				for _, r := range a.Deliver(t.Context(), &d) {
					if r.Outcome != deliver.Delivered {
						t.Fatalf("%+v", r)
					}
				}
				s.Forget()
			}
			if n := undelivered(t, s, whole); n > 0 || s.Octets() != tt.want*size(whole) {
				t.Errorf("%d recipients without the message, it travelled %.2f times, want %d", n, float64(s.Octets())/float64(size(whole)), tt.want)
			}
		})
	}
}

// TestBodyRoots: a root message is one that follows for as long as a message of
// it is remembered, whichever way that one is forgotten.
func TestBodyRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bodies
		one, two := bodyKey{node: "a", root: "r"}, bodyKey{node: "b", root: "r"}
		for _, key := range []bodyKey{one, two} {
			has, settle := b.claim(t.Context(), key)
			if has {
				t.Errorf("%s has it before it was sent", key.node)
			}
			settle(key == one)
		}
		if !b.follows("r") || b.follows("other") {
			t.Error("one of two was taken: its root follows, no other does")
		}
		b.forget(one)
		if b.follows("r") {
			t.Error("nobody has it any more")
		}
		_, settle := b.claim(t.Context(), one)
		settle(true)
		time.Sleep(namedFor)
		_, settle = b.claim(t.Context(), bodyKey{node: "a", root: "other"})
		settle(true)
		if b.follows("r") || !b.follows("other") {
			t.Error("r is too long ago")
		}
		for i := range 2 * maxNamed {
			_, settle := b.claim(t.Context(), bodyKey{node: "a", root: strconv.Itoa(i)})
			settle(true)
		}
		if len(b.roots) != len(b.byKey) || len(b.byKey) > maxNamed {
			t.Errorf("%d roots of %d messages, at most %d", len(b.roots), len(b.byKey), maxNamed)
		}
	})
}

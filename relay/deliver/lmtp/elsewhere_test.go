package lmtp

import (
	"slices"
	"sync"
	"testing"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// TestElsewhere: recipients whom a pair says to be at another one are given to
// that one, once, and the others of the message not again; while a mailbox is on
// its way it is asked for again.
func TestElsewhere(t *testing.T) {
	gone := func(pair string) *smtp.Reply {
		return &smtp.Reply{Code: 451, Status: mail.StatusNotServing, Text: "not mine; pair=" + pair + " epoch=7"}
	}
	for name, tt := range map[string]struct {
		old, now func(n int) *smtp.Reply // answers to u1 after the message, the n-th time
		want     string
		moved    int
	}{
		"moved": {
			old:  func(int) *smtp.Reply { return gone("pair2") },
			want: "delivered delivered", moved: 1,
		},
		"a pair that nobody knows": {
			old:  func(int) *smtp.Reply { return gone("pair9") },
			want: "delivered deferred", moved: 1,
		},
		"sent on by both": {
			old:  func(int) *smtp.Reply { return gone("pair2") },
			now:  func(int) *smtp.Reply { return gone("pair1") },
			want: "delivered deferred", moved: 1,
		},
		"on its way, and then gone": {
			old: func(n int) *smtp.Reply {
				if n < 3 {
					return &smtp.Reply{Code: 451, Status: mail.Status{4, 2, 1}, Text: "mailbox moves, try again"}
				}
				return gone("pair2")
			},
			want: "delivered delivered", moved: 1,
		},
		"it stayed": {
			old: func(n int) *smtp.Reply {
				if n < 2 {
					return &smtp.Reply{Code: 451, Status: mail.Status{4, 2, 1}, Text: "mailbox moves, try again"}
				}
				return nil
			},
			want: "delivered delivered",
		},
	} {
		t.Run(name, func(t *testing.T) {
			answer := func(f func(int) *smtp.Reply) func(*smtp.RcptArgs) *smtp.Reply {
				var mu sync.Mutex
				n := 0
				return func(r *smtp.RcptArgs) *smtp.Reply {
					if f == nil || r.To.Local != "u1" {
						return nil
					}
					mu.Lock()
					defer mu.Unlock()
					n++
					return f(n - 1)
				}
			}
			old, now := sink(t, nil), sink(t, nil)
			old.Answer, now.Answer = answer(tt.old), answer(tt.now)
			table := pair(old)
			table.Update(route.Node{Name: "m0", Pair: "pair2", Alive: true, Serving: true, Addr: map[route.Service]string{route.LMTP: now.Addr}})
			var moved []string
			a := agent(t, Config{Routes: table, Rounds: 8, Moved: func(mailbox string) { moved = append(moved, mailbox) }})
			d := delivery(2)
			if got := outcomes(a.Deliver(t.Context(), d)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if len(moved) != tt.moved || tt.moved > 0 && moved[0] != "u1@example.org" {
				t.Errorf("told of %q", moved)
			}
			of := func(s *lmtptest.Sink, local string) (n int) {
				for _, one := range s.Stored() {
					if one.To.Local == local {
						n++
					}
				}
				return n
			}
			if of(old, "u0") != 1 || of(now, "u0") != 0 || of(old, "u1")+of(now, "u1") > 1 {
				t.Errorf("stored %+v and %+v", old.Stored(), now.Stored())
			}
			if d.Recipients[1].NextHop != "pair1" || slices.Contains(moved, "u0@example.org") {
				t.Error("the delivery was changed")
			}
		})
	}
}

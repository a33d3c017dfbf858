package milter

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
)

// TestStages: what a filter on libmilter says before there is a message.
func TestStages(t *testing.T) {
	p := startPython(t)
	f := newFilter(t, Config{Address: p.addr})
	for name, tt := range map[string]struct {
		helo, from, to string
		want           string
	}{
		"helo":            {"do-reject.test", "a@b.test", "c@d.test", "550 550 550 550"},
		"mail":            {"x.test", "do-tempfail@b.test", "c@d.test", "0 451"},
		"reply to mail":   {"x.test", "do-reply+553+5.1.8+who@b.test", "c@d.test", "0 553"},
		"rcpt":            {"x.test", "a@b.test", "do-reject@d.test", "0 0 550 0"},
		"accept at mail":  {"x.test", "do-accept@b.test", "do-reject@d.test", "0 0 0 0"},
		"accept at rcpt":  {"x.test", "a@b.test", "do-accept@d.test", "0 0 0 0"},
		"discard at rcpt": {"x.test", "a@b.test", "do-discard@d.test", "0 0 0 0 discard"},
		"skip at rcpt":    {"x.test", "a@b.test", "do-skip@d.test", "0 0 0 0"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, c := t.Context(), client()
			c.Helo = tt.helo
			s := open(t, f, c)
			defer s.Close()
			for range 2 { // the second message begins like the first
				var got []string
				add := func(err error) bool {
					if err == nil {
						got = append(got, "0")
						return true
					}
					got = append(got, err.Error()[:3])
					return false
				}
				add(s.Hello(ctx, c))
				ok := add(s.Mail(ctx, c, &policy.Mail{From: addr(tt.from)}))
				if ok || got[0] != "0" {
					add(s.Rcpt(ctx, addr(tt.to)))
					v := s.Message(ctx, [][]byte{[]byte(note)})
					if v.Reply != nil {
						add(v.Reply)
					} else {
						add(nil)
					}
					if v.Discard {
						got = append(got, "discard")
					}
				}
				if s := strings.Join(got, " "); s != tt.want {
					t.Errorf("%s, want %s", s, tt.want)
				}
			}
		})
	}
}

// TestTwoFilters: the second sees what the first has made of a message.
func TestTwoFilters(t *testing.T) {
	one, two := startPython(t), startPython(t, "space")
	msg := plainHeader + do("eom", "addheader", "X-Do", `["eom", "addheader", "X-Two", "2"]`) + do("eom", "chgheader", "X-Do", 1, "[0]") +
		do("eom", "replacebody", "other\n") + "\r\nbody\r\n"
	v := judge(t, newFilter(t, Config{Name: "one", Address: one.addr}), msg)
	if v.Changes != "X-Do added, X-Do changed, body replaced" {
		t.Fatal(word(v))
	}
	again := judge(t, newFilter(t, Config{Name: "two", Address: two.addr}), string(v.Message))
	// It asks for the space behind the colon, so what it adds has none.
	if !strings.HasSuffix(string(again.Message), "X-Two:2\r\n\r\nother\r\n") || again.Changes != "X-Do changed, X-Two added, body replaced" {
		t.Errorf("%s\n%s", again.Changes, again.Message)
	}
	var fields, bodies []string
	for _, e := range events(t, two.log, 1) {
		switch e.Event {
		case "header":
			fields = append(fields, e.Args[0].(string)+":"+e.Args[1].(string))
		case "body":
			bodies = append(bodies, e.Args[0].(string))
		}
	}
	if !slices.Contains(fields, `X-Do: ["eom", "addheader", "X-Two", "2"]`) || !slices.Contains(fields, "X-Do: [0]") || !slices.Equal(bodies, []string{"other\r\n"}) {
		t.Errorf("the second saw %q %q", fields, bodies)
	}
}

// TestGone: a filter that is killed, hangs, is not there, and is there again.
func TestGone(t *testing.T) {
	for on, want := range map[OnFailure]string{
		Tempfail: "451 4.7.1 Service unavailable - try again later", Accept: "pass", Reject: "550 5.7.1 Command rejected",
	} {
		t.Run(string(on), func(t *testing.T) {
			t.Parallel() // each waits for a time-out
			now := time.Now()
			p := startPython(t)
			f := newFilter(t, Config{
				Address: p.addr, OnFailure: on, CommandTimeout: 30 * time.Second, MessageTimeout: 3 * time.Second,
				Now: func() time.Time { return now },
			})
			ctx, c := t.Context(), client()
			s := open(t, f, c)
			defer s.Close()
			try := func(fields string) string {
				v, _ := policy.Judge(ctx, f, c, &policy.Mail{From: addr("a@b.test")}, []mail.Address{addr("c@d.test")}, [][]byte{[]byte(fields + note)})
				return word(v)
			}
			if got := try(do("eom", "hang")); got != want {
				t.Errorf("hangs: %s, want %s", got, want)
			}
			if got := try(""); got != "pass" {
				t.Errorf("the next session: %s", got)
			}
			if got := try(do("eom", "addheader", "X", "y") + do("eom", "die")); got != want {
				t.Errorf("dies: %s, want %s", got, want)
			}
			<-p.done
			for _, when := range []string{"not there", "not tried"} {
				if got := try(""); got != want {
					t.Errorf("%s: %s, want %s", when, got, want)
				}
			}
			// The session that was open at the time.
			err := s.Hello(ctx, c)
			if err == nil {
				err = s.Mail(ctx, c, &policy.Mail{From: addr("a@b.test")})
			}
			if (err == nil) != (on == Accept) {
				t.Errorf("an open session: %v", err)
			}
			now = now.Add(time.Minute)
			other := startPython(t)
			f.network, f.addr, _ = parseAddress(other.addr)
			if got := try(do("eom", "reject")); got != "550 5.7.1 Command rejected" {
				t.Errorf("there again: %s", got)
			}
		})
	}
}

// TestManySessions: sessions run at once, and each gets its own answers.
func TestManySessions(t *testing.T) {
	f := newFilter(t, Config{Address: startPython(t).addr})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for j := range 5 {
				mark := fmt.Sprintf("%d-%d", i, j)
				v := judge(t, f, plainHeader+do("eom", "addheader", "X-Mark", mark)+"\r\nbody\r\n")
				if got := results(v.Message, "X-Mark"); len(got) != 1 || got[0] != mark {
					t.Errorf("%s got %q", mark, got)
				}
			}
		})
	}
	wg.Wait()
}

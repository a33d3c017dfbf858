package bench

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPercentiles: they are those of the sorted times, to 3 %.
func TestPercentiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var times Times
	var all []float64
	for range 20_000 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
		times.Add(d)
		all = append(all, float64(d)/float64(time.Millisecond))
	}
	slices.Sort(all)
	p := times.Percentiles()
	for _, q := range []struct{ got, share float64 }{{p.P50, 0.5}, {p.P90, 0.9}, {p.P99, 0.99}, {p.P999, 0.999}} {
		want := all[int(q.share*float64(len(all)))]
		if q.got < 0.97*want || q.got > 1.03*want {
			t.Errorf("percentile %v is %v, want %v", q.share, q.got, want)
		}
	}
	if p.Count != len(all) || p.Max < all[len(all)-1]-0.001 || p.Max > all[len(all)-1]+0.001 {
		t.Errorf("%+v, want the largest to be %v", p, all[len(all)-1])
	}
	if p := new(Times).Percentiles(); p != (Percentiles{}) {
		t.Errorf("of nothing: %+v", p)
	}
}

func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Profile)
		ok     bool
	}{
		"default":            {func(*Profile) {}, true},
		"nothing to do":      {func(p *Profile) { p.Deliveries, p.Sessions = -1, 0 }, false},
		"sessions only":      {func(p *Profile) { p.Deliveries = -1 }, true},
		"too fast":           {func(p *Profile) { p.Deliveries = 1e6 }, false},
		"too many sessions":  {func(p *Profile) { p.Sessions = 1e6 }, false},
		"too large":          {func(p *Profile) { p.Size = 1 << 30 }, false},
		"polls too often":    {func(p *Profile) { p.Poll = time.Millisecond }, false},
		"does not poll":      {func(p *Profile) { p.Poll = 0 }, true},
		"for ever":           {func(p *Profile) { p.For = 0 }, false},
		"would fill a disk":  {func(p *Profile) { p.Deliveries, p.For = 1000, time.Hour }, false},
		"may fill that much": {func(p *Profile) { p.Deliveries, p.For, p.MaxBytes = 1000, time.Hour, 1<<40 }, true},
	} {
		p := Default()
		tt.change(&p)
		if err := p.Check(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// relay is a mail server of a test's own on pipes: answer says what it replies
// to message n.
type relay struct {
	answer func(n int) string
	n      int
}

func (s *relay) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	go s.serve(there)
	return here, nil
}

func (s *relay) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	say := func(text string) { fmt.Fprintf(c, "%s\r\n", text) }
	for say("220 here"); ; {
		line, err := r.ReadString('\n')
		switch {
		case err != nil:
			return
		case strings.HasPrefix(line, "EHLO"):
			say("250 here")
		case strings.HasPrefix(line, "DATA"):
			say("354 go on")
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			s.n++
			say(s.answer(s.n))
		default:
			say("250 yes")
		}
	}
}

func loaded(t *testing.T, s *relay, change func(*Profile)) *Result {
	t.Helper()
	p := Default()
	p.Deliveries, p.Senders, p.Sessions, p.For = 20, 1, 0, 10*time.Second
	change(&p)
	res, err := Run(t.Context(), p, Target{
		SMTP: []Door{{"relay1", "relay1:25"}}, Users: []User{{"ann", "x", "ann@example.test"}}, Dial: s.dial,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestStall: a second in which nothing is answered shows in all that was due in
// it, although only one message was asked for then.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := loaded(t, &relay{answer: func(n int) string {
			if n == 100 {
				time.Sleep(time.Second)
			}
			return "250 taken"
		}}, func(*Profile) {})
		d := res.Deliveries
		if d.Done != 200 || d.Failed != 0 || res.Ended {
			t.Fatalf("%+v, %s", d, res.Error)
		}
		// 20 of 200 were late, evenly up to a second.
		if d.Times.P50 > 1 || d.Times.P99 < 850 || d.Times.Max < 999 || d.Times.P90 > 60 || d.Times.Mean < 45 {
			t.Errorf("%+v", d.Times)
		}
	})
}

// TestEnds: the load ends when the cluster fails, when all that may be sent is
// sent, and when its time is over.
func TestEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(n int) string
		change func(*Profile)
		ended  bool
		most   int64
	}{
		"refuses all":     {func(int) string { return "451 later" }, func(*Profile) {}, true, leastAsked + 1},
		"refuses some":    {func(n int) string { return map[bool]string{true: "451 later", false: "250 ok"}[n%100 == 0] }, func(*Profile) {}, false, 200},
		"all octets sent": {func(int) string { return "250 ok" }, func(p *Profile) { p.Deliveries, p.MaxBytes = 0, 30*int64(p.Size) }, true, 30},
		"over":            {func(int) string { return "250 ok" }, func(p *Profile) { p.For = 2 * time.Second }, false, 40},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				res := loaded(t, &relay{answer: tt.answer}, tt.change)
				if res.Ended != tt.ended || res.Deliveries.Asked > tt.most || res.Deliveries.Asked < tt.most-2 {
					t.Errorf("ended early: %v (%s), %d asked for, want %d", res.Ended, res.Error, res.Deliveries.Asked, tt.most)
				}
			})
		})
	}
}

func TestReadUsers(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		n    int
	}{
		"two":           {"# load\nann secret ann@example.test\n\nbob  x\tbob@example.test", 2},
		"none":          {"\n# nobody\n", 0},
		"two fields":    {"ann secret\n", 0},
		"no address":    {"ann secret ann\n", 0},
		"control":       {"an\x01n secret ann@example.test\n", 0},
		"not ASCII":     {"ann sécret ann@example.test\n", 0},
		"line too long": {strings.Repeat("a", 1<<17) + " x a@b\n", 0},
	} {
		users, err := ReadUsers(strings.NewReader(tt.text))
		if len(users) != tt.n || (err == nil) != (tt.n > 0) {
			t.Errorf("%s: %d users, %v", name, len(users), err)
		}
	}
}

func FuzzReadUsers(f *testing.F) {
	f.Add("ann secret ann@example.test\n")
	f.Fuzz(func(t *testing.T, text string) {
		users, err := ReadUsers(strings.NewReader(text))
		if err == nil && len(users) == 0 {
			t.Error("neither users nor an error")
		}
		for _, u := range users {
			if strings.ContainsAny(u.Login+u.Password, "\r\n\x00") {
				t.Errorf("%q could end a command", u)
			}
		}
	})
}

// FuzzLine: whatever a server says, a line ends or is an error, and holds no
// line end.
func FuzzLine(f *testing.F) {
	f.Add([]byte("* 3 EXISTS\r\n"))
	f.Add([]byte("* 1 FETCH (BODY[] {5}\r\nab\r\nc UID 3)\r\nb1 OK\r\n"))
	f.Add([]byte("* {9999999999999999999}\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &session{r: bufio.NewReaderSize(strings.NewReader(string(text)), 16)}
		for range len(text) + 1 {
			line, err := s.line()
			if err != nil {
				return
			}
			if strings.HasSuffix(line, "\n") {
				t.Errorf("%q", line)
			}
			if s.note(line); s.exists < 0 {
				t.Errorf("%d messages after %q", s.exists, line)
			}
		}
		t.Error("lines without end")
	})
}

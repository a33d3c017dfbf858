package mail

import (
	"strings"
	"testing"
	"time"
)

// from is a message of a sender.
func from(a Address) *Envelope { return &Envelope{ReversePath: a, Origin: "relay1", RootID: "root"} }

func TestAutoreplyQuery(t *testing.T) {
	ann := Address{Local: "ann", Domain: "example.net"}
	base := Autoreply{Mode: AutoreplyReply, Subject: "Away", Text: "Back soon.\n", Timeout: time.Hour}
	first := base.Query(from(ann))
	if first.Period != time.Hour || first.Only {
		t.Errorf("%+v", first)
	}
	for name, tt := range map[string]struct {
		change func(a *Autoreply, from *Address)
		same   bool
	}{
		"nothing":             {func(*Autoreply, *Address) {}, true},
		"case of the sender":  {func(_ *Autoreply, f *Address) { *f = Address{"Ann", "EXAMPLE.net"} }, true},
		"BATV of the sender":  {func(_ *Autoreply, f *Address) { f.Local = "prvs=1234abcdef=ann" }, true},
		"period":              {func(a *Autoreply, _ *Address) { a.Timeout = 2 * time.Hour }, true},
		"mode":                {func(a *Autoreply, _ *Address) { a.Mode = AutoreplyHeader }, true},
		"another sender":      {func(_ *Autoreply, f *Address) { f.Local = "bob" }, false},
		"text":                {func(a *Autoreply, _ *Address) { a.Text = "Back later.\n" }, false},
		"subject":             {func(a *Autoreply, _ *Address) { a.Subject = "Gone" }, false},
		"text, not subject":   {func(a *Autoreply, _ *Address) { a.Subject, a.Text = a.Text, a.Subject }, false},
		"empty BATV":          {func(_ *Autoreply, f *Address) { f.Local = "prvs=1234=" }, false},
		"an ordinary address": {func(_ *Autoreply, f *Address) { f.Local = "srs0=a=b" }, false},
	} {
		a, sender := base, ann
		tt.change(&a, &sender)
		if got := a.Query(from(sender)).Hash == first.Hash; got != tt.same {
			t.Errorf("%s: same %v, want %v", name, got, tt.same)
		}
	}
	day1 := base.Query(from(Address{"SRS0=a1b2=XY=example.org=eva", "forward.example"}))
	day2 := base.Query(from(Address{"SRS0=c3d4=XZ=example.org=eva", "forward.example"}))
	if other := base.Query(from(Address{"SRS0=c3d4=XZ=example.org=max", "forward.example"})); day1.Hash != day2.Hash || other.Hash == day2.Hash {
		t.Error("SRS")
	}
	echo := base
	echo.Mode, echo.Only = AutoreplyEcho, true
	if q := echo.Query(from(ann)); q.Period != everyMessage || !q.Only || q.Hash == first.Hash {
		t.Errorf("echo: %+v", q)
	}
	other := from(ann)
	other.RootID = "another"
	if echo.Query(other).Hash == echo.Query(from(ann)).Hash || base.Query(other).Hash != first.Hash {
		t.Error("an echo is of one message, a reply of any")
	}
	for timeout, want := range map[time.Duration]time.Duration{
		-1: everyMessage, 0: everyMessage, 1: time.Second, time.Second + 1: 2 * time.Second, 1 << 62: MaxAutoreplyPeriod,
	} {
		a := base
		a.Timeout = timeout
		q := a.Query(from(ann))
		if back, err := ParseAutoreplyQuery(q.String()); q.Period != want || err != nil || back != q {
			t.Errorf("%v: %+v, read as %+v, %v", timeout, q, back, err)
		}
	}
}

func FuzzParseAutoreplyQuery(f *testing.F) {
	hash := strings.Repeat("0a", 16)
	for _, s := range []string{"", hash, hash + ",", hash + ",0", hash + ",604800,only", hash + ",1,", hash + ",01", hash + ",-1", strings.ToUpper(hash) + ",1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := ParseAutoreplyQuery(s)
		if err == nil && q.String() != s {
			t.Errorf("%q read as %q", s, q)
		}
		if err != nil && q != (AutoreplyQuery{}) {
			t.Errorf("%q: %+v with %v", s, q, err)
		}
	})
}

// TestClaim: the claim of an answer is the answer's own, and belongs to the
// question.
func TestClaim(t *testing.T) {
	q := (&Autoreply{Mode: AutoreplyReply, Text: "x", Timeout: time.Hour}).Query(from(Address{Local: "ann", Domain: "example.net"}))
	c := AutoreplyClaim{Pair: "pair1", Mailbox: "bob@example.org", Hash: q.Hash, Period: q.Period}
	env := &Envelope{Origin: "relay1", RootID: "answer", QueueID: "answer"}
	first := c.Query(env)
	if first.Hash != q.Hash || first.Period != q.Period || !first.Only || first.By == (DeliveryKey{}) {
		t.Errorf("%+v", first)
	}
	env.QueueID = "reprocessed"
	if c.Query(env) != first {
		t.Error("another claim for the same answer")
	}
	env.RootID = "other"
	if c.Query(env).By == first.By {
		t.Error("one claim for two answers")
	}
	for _, want := range []AutoreplyQuery{first, {Later: true}, {Only: true, Later: true, Period: 1}} {
		got := want
		got.Later, got.By = false, DeliveryKey{}
		if err := got.ReadClaim(want.ClaimString()); err != nil || got != want {
			t.Errorf("%+v read as %+v, %v", want, got, err)
		}
	}
}

func FuzzReadClaim(f *testing.F) {
	for _, s := range []string{"", "later", "Later", strings.Repeat("0a", 16), strings.Repeat("0A", 16), strings.Repeat("00", 16), "0a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, base := range []AutoreplyQuery{{}, {Only: true, Period: time.Second}} {
			q := base
			if err := q.ReadClaim(s); err != nil && q != base || err == nil && (q.ClaimString() != s || q.By != (DeliveryKey{}) && !q.Only) {
				t.Errorf("%q read as %+v: %v", s, q, err)
			}
		}
	})
}

package mail

import (
	"strings"
	"testing"
	"time"
)

func TestAutoreplyQuery(t *testing.T) {
	ann := Address{Local: "ann", Domain: "example.net"}
	base := Autoreply{Mode: AutoreplyReply, Subject: "Away", Text: "Back soon.\n", Timeout: time.Hour}
	first := base.Query(ann)
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
		a, from := base, ann
		tt.change(&a, &from)
		if got := a.Query(from).Hash == first.Hash; got != tt.same {
			t.Errorf("%s: same %v, want %v", name, got, tt.same)
		}
	}
	day1 := base.Query(Address{"SRS0=a1b2=XY=example.org=eva", "forward.example"})
	day2 := base.Query(Address{"SRS0=c3d4=XZ=example.org=eva", "forward.example"})
	if other := base.Query(Address{"SRS0=c3d4=XZ=example.org=max", "forward.example"}); day1.Hash != day2.Hash || other.Hash == day2.Hash {
		t.Error("SRS")
	}
	echo := base
	echo.Mode, echo.Only = AutoreplyEcho, true
	if q := echo.Query(ann); q.Period != 0 || !q.Only {
		t.Errorf("echo: %+v", q)
	}
	for timeout, want := range map[time.Duration]time.Duration{
		-1: 0, 1: time.Second, time.Second + 1: 2 * time.Second, 1 << 62: MaxAutoreplyPeriod,
	} {
		a := base
		a.Timeout = timeout
		q := a.Query(ann)
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

package expand

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

func testSRS() *SRS {
	return &SRS{Domain: "example.test", Keys: [][]byte{bytes.Repeat([]byte("a"), 16)}}
}

func TestSRS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testSRS()
		if err := s.check(); err != nil {
			t.Fatal(err)
		}
		parse := func(text string) mail.Address {
			a, err := mail.ParseAddress(text, true)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		for _, from := range []string{"eve@out.test", "Eve+x=y@Out.test", `"a b"@out.test`, "srs@out.test", "SRS0x@out.test"} {
			a, ok := s.Forward(parse(from))
			if !ok || a.Domain != "example.test" {
				t.Fatalf("%s: %s, %v", from, a, ok)
			}
			for _, spelt := range []string{a.Local, strings.ToUpper(a.Local), strings.ToLower(a.Local)} {
				back, err := s.Reverse(mail.Address{Local: spelt, Domain: a.Domain})
				if err != nil || !strings.EqualFold(back.String(), parse(from).String()) {
					t.Errorf("%s as %s: back %s, %v", from, spelt, back, err)
				}
			}
		}
		// Two more hosts on the way: the first one is named, and the way back
		// goes there.
		theirs := parse("SRS0=abcdef=XY=out.test=eve@first.test")
		one, ok := s.Forward(theirs)
		if !ok || !strings.HasPrefix(one.Local, "SRS1=") {
			t.Fatalf("%s", one)
		}
		if back, err := s.Reverse(one); err != nil || back != theirs {
			t.Errorf("SRS1 back: %s, %v", back, err)
		}
		second := mail.Address{Local: one.Local, Domain: "second.test"}
		two, _ := s.Forward(second)
		if back, err := s.Reverse(two); err != nil || back != theirs {
			t.Errorf("SRS1 of SRS1 back: %s, %v", back, err)
		}

		a, _ := s.Forward(parse("eve@out.test"))
		for _, bad := range []string{strings.Replace(a.Local, "eve", "eva", 1), strings.Replace(a.Local, "out", "oux", 1), "SRS0=", "SRS0=x", "SRS1=x=y", "SRS0" + a.Local[4:9] + "z" + a.Local[10:], "plain"} {
			if back, err := s.Reverse(mail.Address{Local: bad, Domain: "example.test"}); err == nil {
				t.Errorf("%s taken as %s", bad, back)
			}
		}
		// Another key signs, the old one still verifies.
		s.Keys = [][]byte{bytes.Repeat([]byte("b"), 16), s.Keys[0]}
		if _, err := s.Reverse(a); err != nil {
			t.Errorf("after a new key: %v", err)
		}
		time.Sleep(21*24*time.Hour + time.Hour)
		if _, err := s.Reverse(a); err != nil && !strings.Contains(err.Error(), "old") {
			t.Errorf("at the age: %v", err)
		}
		time.Sleep(24 * time.Hour)
		if back, err := s.Reverse(a); err == nil {
			t.Errorf("too old, taken as %s", back)
		}
		s.Keys = s.Keys[:1]
		if _, err := s.Reverse(a); err == nil {
			t.Error("the old key is gone")
		}
		if _, ok := s.Forward(mail.Address{Local: strings.Repeat("x", 60), Domain: "out.test"}); ok {
			t.Error("longer than a local part may be")
		}
	})
	for _, s := range []*SRS{{}, {Domain: "x"}, {Domain: "x", Keys: [][]byte{[]byte("short")}}} {
		if _, err := New(Config{Directory: fixture(), Pair: Pairs(), SRS: s}); err == nil {
			t.Errorf("%+v taken", s)
		}
	}
}

func FuzzSRS(f *testing.F) {
	s := testSRS()
	if err := s.check(); err != nil {
		f.Fatal(err)
	}
	f.Add("eve@out.test")
	f.Add("SRS0=abcdef=XY=out.test=eve@first.test")
	f.Add("SRS1=abcdef=first.test==abcdef=XY=out.test=eve@second.test")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := mail.ParseAddress(text, true)
		if err != nil || a.IsNull() {
			return
		}
		if back, err := s.Reverse(a); err == nil {
			t.Logf("%s is %s", a, back)
		}
		out, ok := s.Forward(a)
		if !ok || isSRS(a.Local) {
			return
		}
		back, err := s.Reverse(out)
		if err != nil || back.Key() != a.Key() {
			t.Errorf("%s as %s: back %s, %v", a, out, back, err)
		}
	})
}

func FuzzResume(f *testing.F) {
	f.Add("stage=changed&after=a%00b&poster=eve%40out.test")
	f.Add("poster=")
	f.Add("stage=srs&optin=spam&optin=virus")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseResume(text)
		if err != nil {
			return
		}
		again, err := parseResume(s.String())
		if err != nil || again.stage != s.stage || again.after != s.after || !slices.Equal(again.optIn, s.optIn) || (again.poster == nil) != (s.poster == nil) || s.poster != nil && *again.poster != *s.poster {
			t.Errorf("%q: %+v, again %+v, %v", text, s, again, err)
		}
	})
}

// What a newer version left in the queue waits; it is not bounced.
func TestUnknownStage(t *testing.T) {
	x, err := New(Config{Directory: fixture(), Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"stage=unheard", "stage=%zz", "poster=not+an+address"} {
		r := mail.Recipient{Address: mail.Address{Local: "ann", Domain: "example.test"}, Mailbox: state}
		if rs, err := comeBack(t, x, &mail.Envelope{}, r); err == nil || mail.Permanent(err) || len(rs) > 0 {
			t.Errorf("%s: %q, %v", state, show(rs), err)
		}
	}
}

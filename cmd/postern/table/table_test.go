package table

import (
	"strings"
	"testing"
	"unicode"
)

func TestPrint(t *testing.T) {
	tb := New("name", ">size", "note")
	tb.Row("a", 5, "")
	tb.Row("größer", 12345, "two\nlines\x1b[31m")
	var b strings.Builder
	if err := tb.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := "NAME     SIZE  NOTE\n" +
		"a           5\n" +
		"größer  12345  two\\x0alines\\x1b[31m\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	if err := New("empty").Print(&b); err != nil || b.Len() > 0 {
		t.Errorf("a table without rows prints %q, %v", b.String(), err)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1024: "1.0K", 10 << 10: "10K", 1536: "1.5K", 128 << 20: "128M", 3 << 40: "3.0T", 5000 << 40: "5000T"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "a\x1b]0;title\x07", "\xff\xfe", "é\u202e\u0085", "\n\r\t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		for _, r := range got {
			if r != ' ' && !unicode.IsPrint(r) {
				t.Fatalf("Clean(%q) lets %U through", s, r)
			}
		}
		if Clean(got) != got {
			t.Fatalf("Clean(%q) is not stable", s)
		}
	})
}

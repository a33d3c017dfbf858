package mapping

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const sample = `! tables for tests
PAGERS

  *|$_*+*    "$1$2"@pager.example$Y
  *|secret   $N

Greedy
  a*b*       $0:$1
  $_*-*      $0:$1
  x$@*$^*y   $0

CLASSES
  $D*.$A*    digits=$0$ letters=$^$1
  $[a-c_]%-$[^0-9]*  $\$0-$1
  %%         $1$0
  $T*=$H*    [$1]
  twice-*-$0*  $0
  $*$%$$     stars

STEPS
  one        two$C
  two        three$C$F
  three      $|Inner;($0)|$E
  in-*       $|INNER;$0|$Y
  l-*        one-$0$L
  one-*      end-$0
  end-*      done-$0$T

INNER
  ()         empty
  in         inside
LOOP
  *          $0x$R
SELF
  *          $|SELF;$0|
LONG
  a          \
     continued$Y
`

func TestApply(t *testing.T) {
	tables, err := Parse("mappings", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tables.Names(), " "); got != "CLASSES GREEDY INNER LONG LOOP PAGERS SELF STEPS" || !tables.Has("pagers") || tables.Has("nobody") {
		t.Errorf("tables %s", got)
	}
	for _, tt := range []struct {
		table, probe, want, flags string
		matched                   bool
	}{
		{"pagers", "ldap:///o=x?pager?sub|+49 123", `"49 123"@pager.example`, "Y", true},
		{"PAGERS", "ldap:///o=x?pager?sub|SECRET", "", "N", true},
		{"PAGERS", "no bar", "no bar", "", false},
		{"GREEDY", "Axbxb-b", "xbxb-:", "", true}, // the first * takes what it can
		{"GREEDY", "a-b-c", "-:-c", "", true},
		{"GREEDY", "q-b-c", "q:b-c", "", true}, // $_ as little as it can
		{"GREEDY", "xaay", "", "", true},       // $@: not kept, and it takes all
		{"CLASSES", "123.abc", "digits=123 letters=ABC", "", true},
		{"CLASSES", "B-x y", "b-x y", "", true},
		{"CLASSES", "üy", "yü", "", true},
		{"CLASSES", " \t=0fA", "[0fA]", "", true},
		{"CLASSES", "twice-Ab-aB", "Ab", "", true},
		{"CLASSES", "twice-ab-ac", "twice-ab-ac", "", false},
		{"CLASSES", "*%$", "stars", "", true},
		{"STEPS", "one", "empty", "", true},
		{"STEPS", "in-in", "inside", "Y", true},
		{"STEPS", "in-out", "in-out", "", false}, // the inner table has no match
		{"STEPS", "l-5", "end-5", "", true},
		{"LONG", "A", "continued", "Y", true},
	} {
		got, err := tables.Apply(tt.table, tt.probe)
		if err != nil || got.Text != tt.want || got.Flags != tt.flags || got.Matched != tt.matched {
			t.Errorf("%s of %q: %+v, %v, want %q %q", tt.table, tt.probe, got, err, tt.want, tt.flags)
		}
	}
	for table, want := range map[string]error{"LOOP": ErrLimit, "SELF": ErrLimit, "NONE": ErrNoTable} {
		if got, err := tables.Apply(table, "x"); !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v", table, got, err)
		}
	}
	if _, err := (*Tables)(nil).Apply("x", "y"); !errors.Is(err, ErrNoTable) {
		t.Errorf("no tables: %v", err)
	}
	if _, err := tables.Apply("CLASSES", strings.Repeat("x", maxProbe+1)); !errors.Is(err, ErrLimit) {
		t.Errorf("a long probe: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"  a b\n":                "m:1: an entry before the first table",
		"T\n\n  a b c\n":         `m:3: 3 columns: a blank is written "$ "`,
		"T\n  a$Q* b\n":          "m:2: pattern: $Q is not known in a pattern",
		"T\n  $(10.0.0.0/8) b\n": "m:2: pattern: $( is not known in a pattern",
		"T\n  $A b\n":            "m:2: pattern: a class without a wildcard behind it",
		"T\n  $Ax* b\n":          `m:2: pattern: "$A" without a wildcard behind it`,
		"T\n  $[* b\n":           "m:2: pattern: $[ without an end, or with nothing in it",
		"T\n  $0* b\n":           "m:2: pattern: $0 is not followed by *, or no such wildcard is before it",
		"T\n  *********** b\n":   "m:2: pattern: more than ten wildcards are kept",
		"T\n  $@" + strings.Repeat("*", 33) + " b\n": "m:2: pattern: more than 32 runs",
		"T\n  a$ b\n":              "",
		"T\n  a b$\n":              "m:2: template: nothing behind the last $",
		"T\n  a $]ldap:///[\n":     "m:2: template: $] is not known in a template",
		"T\n  a ${x}\n":            "m:2: template: ${ is not known in a template",
		"T\n  a $?50?b\n":          "m:2: template: $? is not known in a template",
		"T\n  a $|U;b\n":           "m:2: template: $| without an end",
		"T\n  a $|U|\n":            "m:2: template: $| without a table and a semicolon",
		"T\n  a $|U;b$Y|\n":        "m:2: template: $| with a flag inside",
		"T\n  a $|U;b|\n":          "m:2: no such mapping table: U",
		"T\nt\n":                   "m:2: a second table T",
		"<other\n":                 `m:1: "<other" is no name of a table`,
		"T\n  " + long + " b\n":    "m:2: longer than 4096 octets",
		"! only a comment\r\n\r\n": "",
	} {
		_, err := Parse("m", []byte(text))
		if got := errorText(err); got != want {
			t.Errorf("%.40q: %s, want %s", text, got, want)
		}
	}
}

var long = strings.Repeat("x", maxColumn+1)

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestEnds: patterns that make a simple comparison try everything.
func TestEnds(t *testing.T) {
	tables, err := Parse("m", []byte("A\n  *a*a*a*a*a*a*a*a*a*b x\nB\n  *-$0*$0*$@*-*-*-*-*-*b x\n"))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if r, err := tables.Apply("A", strings.Repeat("a", 100)); err != nil || r.Matched {
		t.Errorf("%+v, %v", r.Matched, err)
	}
	if r, err := tables.Apply("B", strings.Repeat("a-", 8000)); r.Matched || err != nil && !errors.Is(err, ErrLimit) {
		t.Errorf("%+v, %v", r.Matched, err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// FuzzMapping looks for a file or a probe that panics, or that does not end.
func FuzzMapping(f *testing.F) {
	f.Add(sample, "123.abc")
	f.Add("T\n  *$_**|$[a-]% $0$1$^$2$|T;$0|$L$Y", "a|b|c")
	f.Add("T\n  $0*$D*$0* $R", "11")
	f.Fuzz(func(t *testing.T, text, probe string) {
		if len(text) > 2000 || len(probe) > 200 {
			return
		}
		tables, err := Parse("m", []byte(text))
		if err != nil {
			if tables != nil {
				t.Error("tables and an error")
			}
			return
		}
		for _, name := range tables.Names() {
			r, err := tables.Apply(name, probe)
			if err != nil && !errors.Is(err, ErrLimit) {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil && !r.Matched && r.Text != probe {
				t.Errorf("%s: changed without a match: %q", name, r.Text)
			}
		}
	})
}

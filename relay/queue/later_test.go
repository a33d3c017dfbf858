package queue

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/mail"
)

// later are the keys of version 2 that came after its first release. Releases
// before them skip them, whatever the level.
var later = []string{"+store", "+poster", "+reports", "welcome", "+welcome", "guaranteed", "parent", "parentkey", "parentstate", "parentnotice"}

// laterItem is a message with each of them, and without.
func laterItem(with bool) *Item {
	it := newItem("0123456789abcdefghijklmnop", 2)
	if with {
		it.Envelope.Guaranteed = true
		it.Parent = Parent{ID: "9876543210", Key: mail.NewDeliveryKey("o", "r", "x"), State: TimedOut, Notice: 3}
		it.Recipients[0].Store = "p1"
		it.Recipients[0].Poster = []string{"eva@example.net", "\"a b\"@example.net"}
		it.Recipients[0].Reports = mail.Address{Local: "post master", Domain: "example.org"}
		it.Recipients[0].Welcome, it.Recipients[1].Welcome = "Subject: Hi$$\"Hello\"", "Grüße"
	}
	return it
}

var update = flag.Bool("update", false, "write the golden file of later keys")

const laterGolden = "testdata/later-v2.env"

func TestLaterKeys(t *testing.T) {
	want := laterItem(true)
	written := appendItem(nil, want, 1)
	if *update {
		if err := os.WriteFile(laterGolden, written, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(laterGolden)
	if err != nil || !bytes.Equal(golden, written) {
		t.Errorf("this version writes something else than %s: %v\n%s", laterGolden, err, written)
	}
	for level := 1; level <= Level; level++ {
		if got, err := readItem(appendItem(nil, want, level)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("level %d: %v\n%+v", level, err, got)
		}
	}
	old := keep(string(written), func(key string) bool {
		for _, k := range later {
			if key == k {
				return false
			}
		}
		return key != "end"
	})
	if got, err := readItem(fmt.Appendf([]byte(old), "end %08x\n", checksum([]byte(old)))); err != nil || !reflect.DeepEqual(got, laterItem(false)) {
		t.Errorf("as the release before reads it: %v\n%+v", err, got)
	}
	for _, k := range later {
		if !strings.Contains(string(written), "\n"+k) {
			t.Errorf("%s is not written", k)
		}
	}
}

// keep is the lines whose key f wants.
func keep(text string, f func(key string) bool) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		key, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if f(key) {
			out.WriteString(line)
		}
	}
	return out.String()
}

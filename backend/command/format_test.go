package command

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestGoldenFormat pins the entry that raises a pair's level, and those that a
// level brought.
func TestGoldenFormat(t *testing.T) {
	head := Head{Time: 1_700_000_000_000_000_000}
	golden(t, "testdata/format-v3.hex", &Format{Head: head, Level: 2})
	golden(t, "testdata/remove-v3.hex", &Remove{Head: head, Account: 300, Limit: 20_000})
	golden(t, "testdata/move-v3.hex", &Move{Head: head, Step: MoveArrive, Account: "ann@x", Peer: "pair1", Token: Key{7}, Limit: 20_000})
	golden(t, "testdata/import-account-v3.hex", importedAccount(head))
	golden(t, "testdata/import-mailbox-v3.hex", importedMailbox(head))
	golden(t, "testdata/import-mailbox-v4.hex", listedMailbox(head))
	golden(t, "testdata/rights-v3.hex", &Rights{Head: head, Account: 300, Name: "Work", Identifier: "eva@example.test", Action: StoreAdd, Rights: RightPost | 1, Owners: true})
}

func golden(t *testing.T, file string, c Command) {
	t.Helper()
	data := Append(nil, c)
	if *update {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(data)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(text)); hex.EncodeToString(data) != want {
		t.Errorf("written as %x, want %s", data, want)
	}
	if got, err := Decode(data); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestCompact: a delivery to many people of a few domains says each domain once.
func TestCompact(t *testing.T) {
	var rcpts []Recipient
	for i := range 100 {
		rcpts = append(rcpts, Recipient{Account: fmt.Sprintf("user%d@mail%d.example.test", i, i%3), Key: Key{1, byte(i)}})
	}
	before, after := Append(nil, deliverOf(rcpts...)), Append(nil, compactOf(rcpts...))
	if saved := len(before) - len(after); saved < 95*len("mail0.example.test") {
		t.Errorf("%d octets before, %d after", len(before), len(after))
	}
	if n := bytes.Count(after, []byte("mail1.example.test")); n != 1 {
		t.Errorf("a domain is there %d times", n)
	}
	got, err := Decode(after)
	if err != nil || !reflect.DeepEqual(got, compactOf(rcpts...)) {
		t.Errorf("%v", err)
	}
}

// TestDomains: names are put together and taken apart again, and a table that
// the recipients do not need is refused.
func TestDomains(t *testing.T) {
	long := "a@" + strings.Repeat("x", maxDomain+1)
	for _, name := range []string{"ann@example.test", "postmaster", "a@b@c", "ann@", "@example.test", long} {
		c := compactOf(Recipient{Account: name})
		if got, err := Decode(Append(nil, c)); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	data := Append(nil, compactOf(Recipient{Account: "ann@example.test"}))
	at := bytes.Index(data, []byte("\x0cexample.test"))
	other := bytes.Replace(data, []byte("\x0cexample.test"), []byte("\x0cexample@test"), 1)
	twice := append(append(append([]byte(nil), data[:at-1]...), 2), append([]byte("\x0cexample.test\x01x"), data[at+13:]...)...)
	for name, data := range map[string][]byte{"@ in a domain": other, "domain of nobody": twice} {
		if _, err := Decode(data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package command

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func deliverOf(rcpts ...Recipient) *Deliver {
	return &Deliver{
		Head: Head{Time: 1_700_000_000_000_000_000, Tail: []byte("hello")}, Seed: 7, KeyLife: 8, InternalDate: 9,
		Message:    Message{Size: 5, Hash: Hash{1, 2}, Meta: []byte("meta"), Body: []Extent{{Len: 5}}},
		Recipients: rcpts,
	}
}

var (
	plain    = Recipient{Account: "ann@example.test", Folder: "Work", Key: Key{3}, Flags: 1, Keywords: []string{"$a"}, Limit: &Limit{Bytes: -1, Messages: 2, Stamp: "s"}}
	answered = Recipient{Account: "bob@example.test", Key: Key{4}, Autoreply: &Autoreply{Hash: Hash{5}, Seconds: 604_800}}
	unstored = Recipient{Account: "eva@example.test", Autoreply: &Autoreply{Hash: Hash{6}, Only: true}}
)

// compactOf is a delivery as a pair on level 2 writes it.
func compactOf(rcpts ...Recipient) *Deliver {
	c := deliverOf(rcpts...)
	c.Compact = true
	return c
}

var (
	due   = Recipient{Account: "fay@example.test", Key: Key{8}, Autoreply: &Autoreply{Hash: Hash{7}, Seconds: 3600, Later: true}}
	claim = Recipient{Account: "fay@example.test", Autoreply: &Autoreply{Hash: Hash{7}, Seconds: 3600, Only: true, By: Key{9}}}
)

var nodomain = Recipient{Account: "postmaster", Key: Key{7}}

// TestGoldenDeliver reads Deliver entries as releases have written them: 1 is
// written for whatever version 1 can say.
func TestGoldenDeliver(t *testing.T) {
	for version, c := range map[byte]*Deliver{1: deliverOf(plain), 2: deliverOf(plain, answered, unstored), 3: compactOf(plain, answered, unstored, nodomain, due, claim), 4: postedOf(plain, posted, answered)} {
		file := "testdata/deliver-v" + string('0'+version) + ".hex"
		data := Append(nil, c)
		if data[0] != version {
			t.Errorf("version %d written, want %d", data[0], version)
		}
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(data)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		golden, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || !bytes.Equal(golden, data) {
			t.Errorf("%s: %v\nhave %x\nwant %s", file, err, data, text)
		}
		if got, err := Decode(golden); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: %v\n%+v", file, err, got)
		}
	}
}

// TestVersionOfNeed: an entry says the version that it needs and no other.
func TestVersionOfNeed(t *testing.T) {
	for name, tt := range map[string]struct {
		c       Command
		version byte
		want    error
	}{
		"a question in version 1":   {deliverOf(answered), 1, ErrCorrupt},
		"no question in version 2":  {deliverOf(plain), 2, ErrCorrupt},
		"version 2 of another kind": {&Digest{}, 2, ErrCorrupt},
		"a later version":           {deliverOf(plain), Version + 1, ErrUnknown},
		"nobody posts in version 4": {compactOf(plain), 4, ErrCorrupt},
		"who posts in version 3":    {compactOf(posted), 3, ErrCorrupt},
		"no list in version 4":      {importedMailbox(Head{}), 4, ErrCorrupt},
		"a list in version 3":       {listedMailbox(Head{}), 3, ErrCorrupt},
		"rights in version 2":       {&Rights{Account: 1}, 2, ErrCorrupt},
		"version 3 without a table": {deliverOf(plain), 3, ErrCorrupt},
		"a table in version 2":      {compactOf(plain), 2, ErrCorrupt},
		"a level in version 2":      {&Format{Level: 2}, 2, ErrCorrupt},
		"a level not known":         {&Format{Level: Level + 1}, 3, ErrUnknown},
		"a level that was always":   {&Format{Level: 1}, 3, ErrCorrupt},
		"a removal in version 2":    {&Remove{Account: 1}, 2, ErrCorrupt},
		"no version":                {deliverOf(plain), 0, ErrUnknown},
	} {
		data := Append(nil, tt.c)
		data[0] = tt.version
		if _, err := Decode(data); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	data := Append(nil, deliverOf(unstored))
	at := bytes.Index(data, []byte("\x10eva@")) - 1
	if data[at] != rcptAutoreply|rcptOnly {
		t.Fatalf("bits %x", data[at])
	}
	data[at] = rcptOnly
	if _, err := Decode(data); !errors.Is(err, ErrCorrupt) {
		t.Errorf("not to be stored, and nothing asked: %v", err)
	}
	for name, tt := range map[string]struct {
		c    *Deliver
		bits byte
	}{
		"a claim in version 2":              {deliverOf(answered), rcptKey | rcptAutoreply | rcptClaim},
		"a claim of nothing":                {compactOf(plain), rcptKey | rcptLimit | rcptFlags | rcptClaim},
		"a claim of what is to be stored":   {compactOf(claim), rcptAutoreply | rcptClaim},
		"a claim in version 1, of anything": {deliverOf(plain), rcptKey | rcptLimit | rcptFlags | rcptClaim},
	} {
		data := Append(nil, tt.c)
		was := tt.bits &^ rcptClaim
		if name == "a claim of what is to be stored" {
			was = rcptAutoreply | rcptOnly | rcptClaim
		}
		account := tt.c.Recipients[0].Account
		if tt.c.Compact {
			account, _, _ = strings.Cut(account, "@")
		}
		at := bytes.LastIndex(data, []byte(account)) - 1
		for at >= 0 && data[at] != was {
			at--
		}
		if at < 0 {
			t.Fatalf("%s: no bits", name)
		}
		data[at] = tt.bits
		if _, err := Decode(data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode: what Decode accepts, Append writes.
func FuzzDecode(f *testing.F) {
	for _, c := range []Command{
		deliverOf(plain), deliverOf(answered, unstored), &Part{Head: Head{Tail: []byte("x")}}, &Digest{},
		&Store{UIDs: UIDSet{{1, 2}, {4, 9}}, Keywords: []string{"$a"}}, &Account{Name: "a"}, &Quota{Account: "a"},
		compactOf(plain, answered, nodomain), compactOf(due, claim), &Format{Level: 2}, &Remove{Account: 7, Limit: 20_000},
		&Move{Step: MoveDrop, Account: "ann@x", Token: Key{7}, Limit: 9}, importedAccount(Head{}), importedMailbox(Head{}),
		postedOf(plain, posted), compactOf(posted), listedMailbox(Head{}), &Rights{Account: 7, Name: "Work", Identifier: Anyone, Rights: RightPost},
	} {
		f.Add(Append(nil, c))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Decode(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknown) {
				t.Errorf("error %v", err)
			}
			return
		}
		if again := Append(nil, c); !bytes.Equal(again, data) {
			t.Errorf("%x is written as %x", data, again)
		}
	})
}

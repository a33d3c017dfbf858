package gossip

import (
	"bytes"
	"encoding/base64"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
	"github.com/postern-mail/postern/shared/tlsconf"
)

func TestStatementRoundTrip(t *testing.T) {
	for name, st := range map[string]*statement{
		"least": {name: "a", role: "backend", version: "1", addr: "10.0.0.1:7946", seq: 1, services: map[string]string{}},
		"all": {
			name: "be1.example", role: "relay-mx,relay-proxy", version: "2.3-rc1", addr: "[2001:db8::1]:7946",
			seq: math.MaxInt64, load: -1.5, known: 3, format: 2, draining: true, leaving: true, unready: true, allServices: true, allGroups: true,
			services: map[string]string{"lmtp": "mail.example:24", "imap": "[::1]:143"},
			groups:   []Group{{"p1", true, math.MaxUint64, 0}, {"p2.example.net", false, 0, math.MaxUint64}},
		},
	} {
		got, err := decodeStatement(st.encode())
		if err != nil || !reflect.DeepEqual(got, st) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, st)
		}
		later := appendField(appendField(st.encode(), 4711, []byte("later")), 90, nil)
		if got, err := decodeStatement(later); err != nil || !reflect.DeepEqual(got, st) {
			t.Errorf("%s with unknown fields: %+v, %v", name, got, err)
		}
	}
}

func TestStatementRefused(t *testing.T) {
	good := (&statement{name: "a", role: "backend", version: "1", addr: "10.0.0.1:7946", seq: 1}).encode()
	for name, b := range map[string][]byte{
		"empty":             nil,
		"cut off":           good[:len(good)-1],
		"length beyond all": append(good[:len(good):len(good)], 99, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"blank in the name": appendField(good, fieldName, []byte("a b")),
		"half a level":      appendField(good, fieldFormat, []byte{2}),
		"level too high":    appendField(good, fieldFormat, []byte{2, 0xff, 0xff, 0xff, 0xff, 0x1f}),
		"long name":         appendField(good, fieldName, []byte(strings.Repeat("a", maxName+1))),
		"address of a host": appendField(good, fieldAddr, []byte("localhost:7946")),
		"load is not a number": appendField(good, fieldLoad,
			[]byte{0x7f, 0xf8, 0, 0, 0, 0, 0, 1}),
		"short load":        appendField(good, fieldLoad, []byte{1}),
		"no flags":          appendField(good, fieldFlags, nil),
		"empty service":     appendField(good, fieldService, nil),
		"cut service":       appendField(good, fieldService, []byte("\x09lmtp")),
		"empty group":       appendField(good, fieldGroup, nil),
		"group, no pair":    appendField(good, fieldGroup, []byte{0, 1, 1}),
		"group cut off":     appendField(good, fieldGroup, []byte{0, 0xff}),
		"group twice":       appendField(appendField(good, fieldGroup, []byte("\x00\x01\x01p")), fieldGroup, []byte("\x00\x01\x01p")),
		"sequence cut":      appendField(good, fieldSeq, []byte{0xff}),
		"too many fields":   append(good[:len(good):len(good)], []byte(strings.Repeat("\x7f\x00", maxFields))...),
		"nothing but noise": {0xff, 0xff, 0xff},
	} {
		if st, err := decodeStatement(b); err == nil {
			t.Errorf("%s: accepted as %+v", name, st)
		}
	}
}

func TestState(t *testing.T) {
	e := []entry{{[][]byte{{1}, {2, 3}}, []byte("one")}, {[][]byte{{4}}, []byte("two")}}
	b := encodeState(e)
	if got, err := decodeState(appendField(b, 77, []byte("later"))); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%v, %v", got, err)
	}
	certs := make([][]byte, maxChain+1)
	for i := range certs {
		certs[i] = []byte{1}
	}
	for name, b := range map[string][]byte{
		"empty":             {},
		"version":           {9},
		"no statement":      encodeState([]entry{{chain: [][]byte{{1}}}}),
		"no certificate":    encodeState([]entry{{raw: []byte("x")}}),
		"long chain":        encodeState([]entry{{certs, []byte("x")}}),
		"large certificate": encodeState([]entry{{[][]byte{make([]byte, maxCert+1)}, []byte("x")}}),
		"too many nodes":    encodeState(make([]entry, maxNodes+1)),
	} {
		if got, err := decodeState(b); err == nil {
			t.Errorf("%s: accepted with %d entries", name, len(got))
		}
	}
	// What does not fit is left out, and the rest can be read.
	big := make([]entry, 200)
	for i := range big {
		big[i] = entry{[][]byte{make([]byte, maxCert), make([]byte, maxCert)}, make([]byte, maxStatement)}
	}
	b = encodeState(big)
	if got, err := decodeState(b); err != nil || len(got) < 50 || len(b) > maxState {
		t.Errorf("%d entries in %d octets, %v", len(got), len(b), err)
	}
}

func FuzzOpen(f *testing.F) {
	st := &statement{
		name: "be1", role: "backend", version: "1", addr: "10.0.0.1:7946", seq: 5, allGroups: true,
		services: map[string]string{"lmtp": "10.0.0.1:24"}, groups: []Group{{"p1", true, 3, 9}},
	}
	head := append(append([]byte{formatVersion}, make([]byte, len(tlsconf.Fingerprint{}))...), 2, 7, 7)
	f.Add(append(head, st.encode()...))
	f.Add([]byte{formatVersion})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := open(raw)
		if err != nil {
			if reasonOf(err) == "" {
				t.Errorf("no reason for %v", err)
			}
			return
		}
		if len(s.groups) > maxGroups || len(s.services) > maxServices || len(s.name) > maxName || !finite(s.load) {
			t.Errorf("beyond the limits: %+v", s.statement)
		}
		again, err := decodeStatement(s.encode())
		if err == nil && !reflect.DeepEqual(again, s.statement) {
			t.Errorf("%+v became %+v", s.statement, again)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(encodeState([]entry{{[][]byte{{1}, {2, 3}}, []byte("one")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := decodeState(b)
		if err != nil {
			return
		}
		if got, err := decodeState(encodeState(entries)); err != nil || len(got) != len(entries) {
			t.Errorf("%d entries became %d: %v", len(entries), len(got), err)
		}
	})
}

func TestReadKeys(t *testing.T) {
	a, b := NewKey(), NewKey()
	if reflect.DeepEqual(a, b) || len(a) != KeySize {
		t.Fatal("NewKey repeats itself")
	}
	b64 := base64.StdEncoding.EncodeToString
	for name, tt := range map[string]struct {
		text string
		want [][]byte
		err  string
	}{
		"two":       {"# keys\n\n  " + b64(a) + "  \r\n# old\n" + b64(b), [][]byte{a, b}, ""},
		"none":      {"# nothing\n", nil, "at least one"},
		"short":     {b64(a) + "\n" + b64(b[:16]) + "\n", nil, ":2: want 32 octets"},
		"no base64": {"secret passphrase\n", nil, ":1: want 32 octets"},
		"too many":  {strings.Repeat(b64(a)+"\n", maxKeys+1), nil, "at most"},
		"too large": {strings.Repeat("#", maxKeyFile+1), nil, "octets"},
	} {
		file := filepath.Join(t.TempDir(), "gossip.keys")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadKeys(file)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %v, want %q", name, err, tt.err)
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %d keys", name, len(got))
		}
		if err != nil && strings.Contains(err.Error(), "passphrase") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
	if _, err := ReadKeys(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file is accepted")
	}
}

// TestChangeKeys: add, use, remove on a file with comments; what is made already
// is none, the key that encrypts stays, and a file that somebody has changed is
// left alone.
func TestChangeKeys(t *testing.T) {
	a, b, c := NewKey(), NewKey(), NewKey()
	b64 := func(k []byte) string { return base64.StdEncoding.EncodeToString(k) + "\n" }
	file := filepath.Join(t.TempDir(), "gossip.keys")
	if err := os.WriteFile(file, []byte("# ours\n\n"+b64(a)), 0o600); err != nil {
		t.Fatal(err)
	}
	ring := [][]byte{a}
	for i, tt := range []struct {
		op, id string
		key    []byte
		want   string // the file
		err    string
	}{
		{RemoveKey, KeyID(a), nil, "", "encrypts"},
		{UseKey, KeyID(b), nil, "", "there is no key " + KeyID(b)},
		{AddKey, "", b[:16], "", "16 octets"},
		{"rotate", KeyID(a), nil, "", "no change is called"},
		{AddKey, "", b, "# ours\n\n" + b64(a) + b64(b), ""},
		{AddKey, "", b, "# ours\n\n" + b64(a) + b64(b), ""},
		{UseKey, KeyID(b), nil, "# ours\n\n" + b64(b) + b64(a), ""},
		{UseKey, KeyID(b), nil, "# ours\n\n" + b64(b) + b64(a), ""},
		{RemoveKey, KeyID(b), nil, "", "encrypts"},
		{RemoveKey, KeyID(a), nil, "# ours\n\n" + b64(b), ""},
		{RemoveKey, KeyID(a), nil, "# ours\n\n" + b64(b), ""},
	} {
		keys, err := ChangeKeys(file, tt.op, tt.id, tt.key, ring)
		text, rerr := os.ReadFile(file)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%d: %v, want %q", i, err, tt.err)
			}
			continue
		}
		if err != nil || rerr != nil || string(text) != tt.want {
			t.Errorf("%d: %v, %v, file:\n%s", i, err, rerr, text)
		}
		ring = keys
	}
	if _, err := ChangeKeys(file, AddKey, "", c, [][]byte{a}); err == nil || !strings.Contains(err.Error(), "not what is in use") {
		t.Errorf("a file that was changed: %v", err)
	}
	for range maxKeys - 1 {
		var err error
		if ring, err = ChangeKeys(file, AddKey, "", NewKey(), ring); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ChangeKeys(file, AddKey, "", c, ring); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too many: %v", err)
	}
	if again, err := ReadKeys(file); err != nil || len(again) != maxKeys {
		t.Errorf("%d keys, %v", len(again), err)
	}
}

func FuzzKeys(f *testing.F) {
	key := base64.StdEncoding.EncodeToString(make([]byte, KeySize))
	f.Add("# x\n " + key + " \r\n\n" + key)
	f.Add(key[:20])
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := parseKeys("f", text)
		if err != nil {
			return
		}
		n := len(lines.keys())
		if changed, err := lines.change(AddKey, "", bytes.Repeat([]byte{7}, KeySize)); err != nil || changed && len(lines.keys()) != n+1 {
			t.Errorf("%d keys, %v", len(lines.keys()), err)
		}
	})
}

func TestReplaceKeys(t *testing.T) {
	k := [][]byte{NewKey(), NewKey(), NewKey(), NewKey()}
	ring := new(memberlist.Keyring)
	for _, keys := range [][][]byte{{k[0]}, {k[0], k[1], k[2]}, {k[2], k[1]}, {k[2], k[3]}, {k[1], k[0], k[3]}, {k[3]}, {k[3], k[3]}} {
		if err := replaceKeys(ring, keys); err != nil {
			t.Fatal(err)
		}
		held := map[string]bool{}
		for _, key := range ring.GetKeys() {
			held[string(key)] = true
		}
		want := map[string]bool{}
		for _, key := range keys {
			want[string(key)] = true
		}
		if string(ring.GetPrimaryKey()) != string(keys[0]) || !reflect.DeepEqual(held, want) {
			t.Errorf("ring of %d keys, want %d; or the first is another", len(held), len(want))
		}
	}
}

package gossip

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/memberlist"

	"github.com/postern-mail/postern/shared/fsx"
)

// KeySize is the number of octets of a key, for AES-256.
const KeySize = 32

const (
	maxKeys    = 16
	maxKeyFile = 64 << 10
)

// NewKey makes a key.
func NewKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key) //nolint:errcheck // crypto/rand.Read never fails
	return key
}

// KeyID names a key without giving it away: 12 hexadecimal digits of a hash.
func KeyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("postern gossip key\n"), key...))
	return hex.EncodeToString(sum[:6])
}

// ReadKeys reads a file of keys in base64, one a line, the one that encrypts
// first. Empty lines and those that begin with # are skipped.
func ReadKeys(file string) ([][]byte, error) {
	f, err := readKeyFile(file)
	if err != nil {
		return nil, err
	}
	return f.keys(), nil
}

// The changes of a set of keys, which are made on every node, one after the
// other: add, then use, then remove.
const (
	AddKey    = "add"    // decrypt with it
	UseKey    = "use"    // encrypt with it
	RemoveKey = "remove" // forget it
)

// ChangeKeys makes a change of the keys in file, which is replaced durably; its
// comments stay. For AddKey, key is the key; for the others id names it. A change
// that is made already is none. The key that encrypts is not removed. ring is
// what the node uses: a file that says something else was changed by somebody,
// and is left alone.
func ChangeKeys(file, op, id string, key []byte, ring [][]byte) ([][]byte, error) {
	f, err := readKeyFile(file)
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(f.keys(), ring, bytes.Equal) {
		return nil, fmt.Errorf("gossip keys: %s is not what is in use: reload this node or restore the file first", file)
	}
	changed, err := f.change(op, id, key)
	if err != nil || !changed {
		return f.keys(), err
	}
	if err := checkKeys(f.keys()); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var b strings.Builder
	for _, l := range f {
		b.WriteString(l.text + "\n")
	}
	if err := fsx.WriteFileAtomic(fsx.OS, file, []byte(b.String())); err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	return f.keys(), nil
}

// keyLine is a line of a file of keys; key is nil for the others.
type keyLine struct {
	text string
	key  []byte
}

type keyLines []keyLine

func (f keyLines) keys() (keys [][]byte) {
	for _, l := range f {
		if l.key != nil {
			keys = append(keys, l.key)
		}
	}
	return keys
}

func (f *keyLines) change(op, id string, key []byte) (changed bool, err error) {
	if op == AddKey {
		if len(key) != KeySize {
			return false, fmt.Errorf("gossip keys: the new one has %d octets, want %d", len(key), KeySize)
		}
		id = KeyID(key)
	}
	at := slices.IndexFunc(*f, func(l keyLine) bool { return l.key != nil && KeyID(l.key) == id })
	first := slices.IndexFunc(*f, func(l keyLine) bool { return l.key != nil })
	switch {
	case op == AddKey && at >= 0, op == UseKey && at >= 0 && at == first, op == RemoveKey && at < 0:
		return false, nil
	case op == AddKey:
		*f = append(*f, keyLine{base64.StdEncoding.EncodeToString(key), key})
	case op == UseKey && at < 0:
		return false, fmt.Errorf("gossip keys: there is no key %s", id)
	case op == UseKey:
		l := (*f)[at]
		*f = slices.Insert(slices.Delete(*f, at, at+1), first, l)
	case op == RemoveKey && at == first:
		return false, fmt.Errorf("gossip keys: key %s encrypts: use another one first", id)
	case op == RemoveKey:
		*f = slices.DeleteFunc(*f, func(l keyLine) bool { return l.key != nil && KeyID(l.key) == id })
	default:
		return false, fmt.Errorf("gossip keys: no change is called %q", op)
	}
	return true, nil
}

func readKeyFile(file string) (keyLines, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	if fi.Size() > maxKeyFile {
		return nil, fmt.Errorf("gossip keys: %s has %d octets", file, fi.Size())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	f, err := parseKeys(file, string(data))
	if err != nil {
		return nil, err
	}
	if err := checkKeys(f.keys()); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

func parseKeys(file, data string) (f keyLines, err error) {
	for l := range strings.Lines(data) {
		l = strings.TrimRight(l, "\r\n")
		text := strings.TrimSpace(l)
		if text == "" || text[0] == '#' {
			f = append(f, keyLine{text: l})
			continue
		}
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != KeySize {
			// The text of err could show a part of the key.
			return nil, fmt.Errorf("gossip keys: %s:%d: want %d octets in base64", file, len(f)+1, KeySize)
		}
		f = append(f, keyLine{l, key})
	}
	return f, nil
}

func checkKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("gossip keys: at least one is needed")
	}
	if len(keys) > maxKeys {
		return fmt.Errorf("gossip keys: %d of them, at most %d", len(keys), maxKeys)
	}
	for i, key := range keys {
		if len(key) != KeySize {
			return fmt.Errorf("gossip keys: key %d has %d octets, want %d", i+1, len(key), KeySize)
		}
	}
	return nil
}

// replaceKeys makes ring hold keys, the first of them encrypting.
//
// Keyring.RemoveKey moves the keys behind the removed one inside the slice that
// readers hold, so only the last key is ever removed. A key that has to stay
// behind one that has to go is taken off and put back.
func replaceKeys(ring *memberlist.Keyring, keys [][]byte) error {
	has := func(keys [][]byte, key []byte) bool {
		return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
	}
	for _, key := range keys {
		if err := ring.AddKey(key); err != nil {
			return err
		}
	}
	if err := ring.UseKey(keys[0]); err != nil {
		return err
	}
	for {
		held := ring.GetKeys()
		if !slices.ContainsFunc(held, func(k []byte) bool { return !has(keys, k) }) {
			break
		}
		if err := ring.RemoveKey(held[len(held)-1]); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if err := ring.AddKey(key); err != nil {
			return err
		}
	}
	return nil
}

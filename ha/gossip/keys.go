package gossip

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/memberlist"
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

// ReadKeys reads a file of keys in base64, one a line, the one that encrypts
// first. Empty lines and those that begin with # are skipped.
func ReadKeys(file string) ([][]byte, error) {
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
	var keys [][]byte
	line := 0
	for l := range strings.Lines(string(data)) {
		line++
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(l)
		if err != nil || len(key) != KeySize {
			// The text of err could show a part of the key.
			return nil, fmt.Errorf("gossip keys: %s:%d: want %d octets in base64", file, line, KeySize)
		}
		keys = append(keys, key)
	}
	if err := checkKeys(keys); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return keys, nil
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

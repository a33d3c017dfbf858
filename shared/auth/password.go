package auth

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"strings"
)

// MaxPassword is the longest password that is looked at, in octets.
const MaxPassword = 1024

// scheme is a digest with an optional salt after it.
type scheme struct {
	new  func() hash.Hash
	size int
}

var schemes = map[string]scheme{
	"SHA": {sha1.New, sha1.Size}, "SSHA": {sha1.New, sha1.Size},
	"SHA256": {sha256.New, sha256.Size}, "SSHA256": {sha256.New, sha256.Size},
	"SHA512": {sha512.New, sha512.Size}, "SSHA512": {sha512.New, sha512.Size},
}

// VerifyPassword reports whether password matches stored, a value of
// userPassword: {SSHA}, {SSHA256}, {SSHA512} and their unsalted forms,
// {CLEAR}, {CLEARTEXT} or {PLAIN}, or the password itself (RFC 2307 5.3). An
// empty password, or a scheme that is not known, never matches.
func VerifyPassword(stored, password string) bool {
	if stored == "" || password == "" || len(password) > MaxPassword {
		return false
	}
	name, value, ok := splitScheme(stored)
	if !ok {
		return equal(stored, password)
	}
	switch name {
	case "CLEAR", "CLEARTEXT", "PLAIN":
		return equal(value, password)
	}
	s, known := schemes[name]
	if !known {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(value)
	if err != nil || len(raw) < s.size {
		return false
	}
	h := s.new()
	h.Write([]byte(password))
	h.Write(raw[s.size:])
	return subtle.ConstantTimeCompare(h.Sum(nil), raw[:s.size]) == 1
}

// HashPassword makes a {SSHA512} value with 16 octets of salt.
func HashPassword(password string) string {
	var salt [16]byte
	rand.Read(salt[:]) // never fails
	h := sha512.New()
	h.Write([]byte(password))
	h.Write(salt[:])
	return "{SSHA512}" + base64.StdEncoding.EncodeToString(append(h.Sum(nil), salt[:]...))
}

// splitScheme cuts "{NAME}value". Something in braces that does not look like
// the name of a scheme is part of a plain password.
func splitScheme(stored string) (name, value string, ok bool) {
	if stored[0] != '{' {
		return "", stored, false
	}
	end := strings.IndexByte(stored, '}')
	if end < 2 {
		return "", stored, false
	}
	for i := 1; i < end; i++ {
		c := stored[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return "", stored, false
		}
	}
	return strings.ToUpper(stored[1:end]), stored[end+1:], true
}

// equal compares without telling by time where, or whether by length, the two
// differ.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

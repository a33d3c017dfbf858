package edit

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"

	"github.com/postern-mail/postern/shared/auth"
)

// Hashes are the names that HashBy knows.
var Hashes = []string{"ssha512", "ssha", "server"}

// HashBy returns the function for Config.Hash of a name: ssha512 is for servers
// that check it (ours, 389, OpenLDAP with the module pw-sha2), ssha for every
// OpenLDAP, and server leaves the password to a server that hashes itself.
func HashBy(name string) (func(string) string, error) {
	switch name {
	case "ssha512", "":
		return auth.HashPassword, nil
	case "ssha":
		return salted, nil
	case "server":
		return func(p string) string { return p }, nil
	}
	return nil, badf("hash %q: one of %v", name, Hashes)
}

// salted makes a {SSHA} value: weaker, but what a plain OpenLDAP can check.
func salted(password string) string {
	var salt [16]byte
	_, _ = rand.Read(salt[:]) // never fails
	sum := sha1.Sum(append([]byte(password), salt[:]...))
	return fmt.Sprintf("{SSHA}%s", base64.StdEncoding.EncodeToString(append(sum[:], salt[:]...)))
}

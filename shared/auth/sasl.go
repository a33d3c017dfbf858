package auth

import (
	"bytes"
	"errors"
	"unicode/utf8"
)

// The mechanisms, as they are spelled in AUTH and AUTHENTICATE.
const (
	Plain    = "PLAIN"    // RFC 4616
	Login    = "LOGIN"    // draft-murchison-sasl-login; old clients know no other
	External = "EXTERNAL" // RFC 4422 appendix A
)

// MaxIdentity is the longest user name or authorization identity, in octets.
const MaxIdentity = 320

// Errors of an exchange. After one the exchange is over.
var (
	ErrMechanism = errors.New("auth: unknown mechanism")
	ErrSyntax    = errors.New("auth: malformed response")
)

// Credentials are what a client claims.
type Credentials struct {
	Mechanism string
	Authz     string // identity to act as, "" for the one that authenticates
	User      string // "" with EXTERNAL: the certificate says it
	Password  string // "" with EXTERNAL
}

// Exchange is the server's side of one authentication. It is not for use by
// several goroutines.
type Exchange struct {
	cred Credentials
	step int
	done bool
}

// NewExchange begins an exchange with the named mechanism, spelled in any
// case. ErrMechanism when it is not one of ours.
func NewExchange(mechanism string) (*Exchange, error) {
	for _, m := range [...]string{Plain, Login, External} {
		if len(m) == len(mechanism) && bytes.EqualFold([]byte(m), []byte(mechanism)) {
			return &Exchange{cred: Credentials{Mechanism: m}}, nil
		}
	}
	return nil, ErrMechanism
}

// Next takes the client's response, decoded from base64, and returns the
// challenge to send (decoded too, maybe empty) or done. The first call has a
// nil response when the client sent no initial one; an initial response that
// is present but empty ("=") is an empty slice that is not nil.
func (x *Exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	if x.done {
		return nil, false, ErrSyntax
	}
	if response == nil {
		if x.step > 0 {
			x.done = true
			return nil, false, ErrSyntax
		}
		x.step = 1
		if x.cred.Mechanism == Login {
			return []byte("Username:"), false, nil
		}
		return nil, false, nil
	}
	switch x.cred.Mechanism {
	case Plain:
		x.done = true
		err = x.plain(response)
		return nil, err == nil, err
	case External:
		x.done = true
		if !identity(response, true) {
			return nil, false, ErrSyntax
		}
		x.cred.Authz = string(response)
		return nil, true, nil
	}
	return x.login(response)
}

// Credentials returns what the exchange yielded; only useful once Next has
// reported done without an error.
func (x *Exchange) Credentials() Credentials { return x.cred }

func (x *Exchange) plain(response []byte) error {
	cred, err := DecodePlain(response)
	if err == nil {
		x.cred = cred
	}
	return err
}

func (x *Exchange) login(response []byte) ([]byte, bool, error) {
	if x.cred.User == "" {
		if !identity(response, false) {
			x.done = true
			return nil, false, ErrSyntax
		}
		x.cred.User = string(response)
		x.step = 2
		return []byte("Password:"), false, nil
	}
	x.done = true
	if len(response) > MaxPassword || bytes.IndexByte(response, 0) >= 0 {
		return nil, false, ErrSyntax
	}
	x.cred.Password = string(response)
	return nil, true, nil
}

// DecodePlain reads the message of PLAIN: [authzid] NUL authcid NUL passwd
// (RFC 4616 2). An authorization identity equal to the user is the same as
// none.
func DecodePlain(message []byte) (Credentials, error) {
	first := bytes.IndexByte(message, 0)
	if first < 0 {
		return Credentials{}, ErrSyntax
	}
	rest := message[first+1:]
	second := bytes.IndexByte(rest, 0)
	if second < 0 {
		return Credentials{}, ErrSyntax
	}
	authz, user, password := message[:first], rest[:second], rest[second+1:]
	if !identity(authz, true) || !identity(user, false) || len(password) == 0 ||
		len(password) > MaxPassword || bytes.IndexByte(password, 0) >= 0 || !utf8.Valid(password) {
		return Credentials{}, ErrSyntax
	}
	c := Credentials{Mechanism: Plain, User: string(user), Password: string(password)}
	if !bytes.Equal(authz, user) {
		c.Authz = string(authz)
	}
	return c, nil
}

// identity reports whether b can name a user: UTF-8 without control characters.
func identity(b []byte, mayBeEmpty bool) bool {
	if len(b) == 0 {
		return mayBeEmpty
	}
	if len(b) > MaxIdentity || !utf8.Valid(b) {
		return false
	}
	for _, c := range b {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

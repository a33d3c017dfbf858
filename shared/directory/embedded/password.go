package embedded

import (
	"crypto/rand"
	"strings"

	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// maxNewPassword is the longest password that the server takes, in octets.
const maxNewPassword = 1024

// passwordChange is a request of RFC 3062.
type passwordChange struct {
	who, old, new          string
	hasWho, hasOld, hasNew bool
}

func decodePasswordChange(b []byte) (p passwordChange, err error) {
	if len(b) == 0 {
		return p, nil
	}
	list, rest, err := ber.Expect(b, ber.TagSequence)
	if err != nil || len(rest) > 0 {
		return p, ber.ErrSyntax
	}
	for len(list) > 0 {
		var e ber.Element
		if e, list, err = ber.Next(list); err != nil {
			return p, err
		}
		switch e.Tag {
		case 0x80:
			p.who, p.hasWho = string(e.Body), true
		case 0x81:
			p.old, p.hasOld = string(e.Body), true
		case 0x82:
			p.new, p.hasNew = string(e.Body), true
		default:
			return p, ber.ErrSyntax
		}
	}
	return p, nil
}

// changePassword carries out a Password Modify (RFC 3062) and returns the
// password that it made up, "" when the client gave one.
func (c *conn) changePassword(req *request) (generated string, err error) {
	switch {
	case c.who == "":
		return "", result(codeInsufficientAccess, "bind first")
	case c.s.cfg.RequireTLS && !c.tls && !loopback(c.nc):
		return "", result(codeConfidentiality, "TLS required")
	}
	p, err := decodePasswordChange(req.payload)
	if err != nil {
		return "", result(codeProtocolError, "malformed request")
	}
	name := c.who
	if p.hasWho && p.who != "" {
		name = p.who
		if rest, ok := strings.CutPrefix(name, "dn:"); ok {
			name = rest
		}
	}
	norm, err := normalDN(name)
	if err != nil {
		return "", result(codeInvalidDN, "invalid DN")
	}
	c.s.tree.mu.RLock()
	n := c.s.tree.nodes[norm]
	var o *object
	if n != nil {
		o = n.obj
	}
	v := c.s.viewOf(c.norm, c.root)
	c.s.tree.mu.RUnlock()
	v.at(norm)
	switch {
	case !v.may("userpassword", WriteOnly):
		return "", result(codeInsufficientAccess, "no write access")
	case o == nil:
		return "", result(codeNoSuchObject, "no such entry")
	case p.hasOld && !o.verify(p.old):
		return "", result(codeInvalidCredentials, "old password is wrong")
	case p.hasNew && (p.new == "" || len(p.new) > maxNewPassword):
		return "", result(codeConstraint, "new password is empty or too long")
	}
	if !p.hasNew {
		generated = rand.Text()
		p.new = generated
	}
	return generated, c.s.change(&request{op: opModify, dn: o.dn, changes: []change{{
		2, attribute{name: "userPassword", lower: "userpassword", values: []string{auth.HashPassword(p.new)}},
	}}}, c.who)
}

// verify reports whether o has that password.
func (o *object) verify(password string) bool {
	for i := range o.attrs {
		if !describes("userpassword", o.attrs[i].lower) {
			continue
		}
		for _, stored := range o.attrs[i].values {
			if auth.VerifyPassword(stored, password) {
				return true
			}
		}
	}
	return false
}

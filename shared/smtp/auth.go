package smtp

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/mail"
)

// Replies of AUTH (RFC 4954 section 6).
var (
	replyAuthCancel    = &Reply{Code: 501, Status: mail.Status{5, 7, 0}, Text: "Authentication cancelled"}
	replyAuthSyntax    = &Reply{Code: 501, Status: mail.StatusSyntax, Text: "Cannot decode the response"}
	replyAuthMechanism = &Reply{Code: 504, Status: mail.StatusBadParameter, Text: "Mechanism not supported"}
	replyAuthTLS       = &Reply{Code: 538, Status: mail.Status{5, 7, 11}, Text: "Encryption required for this mechanism"}
	replyAuthFailed    = &Reply{Code: 535, Status: mail.Status{5, 7, 8}, Text: "Authentication credentials invalid"}
)

// mechanisms lists what this connection may use now, in the configured order.
func (c *conn) mechanisms() []string {
	var list []string
	for _, m := range c.cfg.Mechanisms {
		if c.mayUse(m) {
			list = append(list, m)
		}
	}
	return list
}

// mayUse reports whether mechanism m is open to this connection: EXTERNAL
// wants a certificate that was verified, the others a line that nobody reads.
func (c *conn) mayUse(m string) bool {
	if m == "EXTERNAL" {
		return c.info.TLS != nil && len(c.info.TLS.VerifiedChains) > 0
	}
	return c.info.TLS != nil || !c.cfg.RequireTLS && c.cfg.PlainWithoutTLS != nil && c.cfg.PlainWithoutTLS(c.info.Remote)
}

// auth is the AUTH command (RFC 4954).
func (c *conn) auth(args string) error {
	mech, initial, hasInitial := strings.Cut(args, " ")
	mech = strings.ToUpper(mech)
	switch {
	case len(c.cfg.Mechanisms) == 0:
		c.reply(replyDisabled)
		return nil
	case !c.hello || !c.info.ESMTP:
		c.reply(replyHelloFirst)
		return nil
	case c.info.AuthUser != "" || c.tx.open:
		c.reply(replySequence)
		return nil
	case !slices.Contains(c.cfg.Mechanisms, mech):
		c.reply(replyAuthMechanism)
		return nil
	case !c.mayUse(mech):
		r := replyAuthTLS
		if c.info.TLS != nil {
			r = replyAuthMechanism
		} else if c.cfg.RequireTLS {
			r = replyTLSFirst
		}
		c.reply(r)
		return nil
	}
	var authz, user, password string
	var r *Reply
	var err error
	switch mech {
	case "PLAIN":
		authz, user, password, r, err = c.plain(initial, hasInitial)
	case "LOGIN":
		user, password, r, err = c.login(initial, hasInitial)
	case "EXTERNAL":
		authz, r, err = c.saslResponse("", initial, hasInitial)
	}
	if err != nil {
		return err
	}
	if r == nil && (!isText(authz) || !isText(user) || strings.IndexByte(password, 0) >= 0) {
		r = replyAuthFailed
	}
	if r != nil {
		c.reply(r)
		return nil
	}
	name, err := c.sess.Auth(c.ctx, mech, authz, user, password)
	if err == nil && name == "" {
		err = replyAuthFailed
	}
	if c.answer("Auth", err, replyAuthOK) {
		c.info.AuthUser = name
	}
	return nil
}

// plain is the exchange of PLAIN (RFC 4616).
func (c *conn) plain(initial string, has bool) (authz, user, password string, r *Reply, err error) {
	s, r, err := c.saslResponse("", initial, has)
	if r != nil || err != nil {
		return "", "", "", r, err
	}
	authz, s, ok1 := strings.Cut(s, "\x00")
	user, password, ok2 := strings.Cut(s, "\x00")
	if !ok1 || !ok2 || user == "" || password == "" {
		r = replyAuthSyntax
	}
	return authz, user, password, r, nil
}

// login is the exchange of LOGIN, which no RFC describes.
func (c *conn) login(initial string, has bool) (user, password string, r *Reply, err error) {
	user, r, err = c.saslResponse("VXNlcm5hbWU6", initial, has) // "Username:"
	if r != nil || err != nil {
		return "", "", r, err
	}
	password, r, err = c.saslResponse("UGFzc3dvcmQ6", "", false) // "Password:"
	if r == nil && (user == "" || password == "") {
		r = replyAuthSyntax
	}
	return user, password, r, err
}

// saslResponse decodes the initial response, or asks for one with challenge. r
// is set when there is none to be had.
func (c *conn) saslResponse(challenge, initial string, has bool) (s string, r *Reply, err error) {
	if !has {
		c.out = append(append(append(c.out, "334 "...), challenge...), '\r', '\n')
		line, fault, err := c.readLine()
		switch {
		case err != nil:
			return "", nil, err
		case fault&lineOpen != 0:
			c.closing, c.abrupt = true, true
			return "", replyAuthSyntax, nil
		case fault&lineLong != 0:
			return "", replyLongLine, nil
		case fault != 0:
			return "", replyAuthSyntax, nil
		}
		if initial = string(line); initial == "*" {
			return "", replyAuthCancel, nil
		}
	} else if initial == "=" { // RFC 4954 section 4: an empty initial response
		return "", nil, nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(initial)
	if err != nil {
		return "", replyAuthSyntax, nil
	}
	return string(b), nil, nil
}

/*
Package login says who a person is who logs in to a relay, for submission and
for the access proxies.

	credentials -> directory: whose login is it? -> may that user log in?
	            -> from here, by this service?   -> bind with the password
	            -> account and pair

What it keeps true:

  - An unknown user, a wrong password and a user who may not log in are refused
    alike; which of them it was is for the log only.
  - What the directory cannot answer now is a temporary failure, never a refusal.
  - A user acts for nobody else: an authorization identity must lead to the same
    account.
  - The access filter of the domain is applied first, then the user's; both must
    allow the service and the client. A filter that cannot be read allows nothing.

Package login keeps nothing (the directory's cache remembers checked passwords)
and counts no failures (the servers do).
*/
package login

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"

	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/relay/smtpd"
	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Checker checks logins. Any number of goroutines may use it.
type Checker struct {
	Directory directory.Directory
	// Pair finds the pair that a mailHost names.
	Pair func(mailHost string) (pair string, ok bool)
	// Host finds the host name of a client, for access filters that ask for
	// names, and whether it leads back to the address; nil: no name is known.
	Host func(ctx context.Context, addr netip.Addr) (name string, verified bool)
}

var _ smtpd.Authenticator = (*Checker)(nil)

// errRefused is every reason why somebody may not log in.
var errRefused = errors.New("refused")

// user returns the entry that the credentials prove; errRefused, wrapped, when
// they do not.
func (c *Checker) user(ctx context.Context, service, user, password, authz string) (*directory.Entry, error) {
	e, err := c.find(ctx, user)
	if err != nil {
		return nil, err
	}
	if !e.MayLogin() {
		return nil, fmt.Errorf("%w: %s is not active", errRefused, e.DN)
	}
	if err := c.access(ctx, e, service); err != nil {
		return nil, err
	}
	switch err := c.Directory.Authenticate(ctx, e, password); {
	case errors.Is(err, directory.ErrBadPassword):
		return nil, fmt.Errorf("%w: wrong password of %s", errRefused, e.DN)
	case err != nil:
		return nil, err
	}
	return e, c.same(ctx, e, authz)
}

func (c *Checker) find(ctx context.Context, user string) (*directory.Entry, error) {
	e, err := c.Directory.Login(ctx, user)
	switch {
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return nil, fmt.Errorf("%w: %q: %w", errRefused, user, err)
	case err != nil:
		return nil, err
	case e.Kind != directory.User || e.Mailbox == "":
		return nil, fmt.Errorf("%w: %s has no mailbox", errRefused, e.DN)
	}
	return e, nil
}

// same checks that authz, if there is one, is the account of e.
func (c *Checker) same(ctx context.Context, e *directory.Entry, authz string) error {
	if authz == "" {
		return nil
	}
	other, err := c.find(ctx, authz)
	if err != nil {
		return err
	}
	if other.DN != e.DN {
		return fmt.Errorf("%w: %s may not act as %q", errRefused, e.DN, authz)
	}
	return nil
}

// Password implements smtpd.Authenticator.
func (c *Checker) Password(ctx context.Context, user, password, authz string) (string, error) {
	e, err := c.user(ctx, "smtp", user, password, authz)
	if err != nil {
		return "", classify(err)
	}
	return e.Mailbox, nil
}

// Certificate implements smtpd.Authenticator: the login is the certificate's
// mail address (RFC 822 name), or the authorization identity if that leads to
// the same account.
func (c *Checker) Certificate(ctx context.Context, cs *tls.ConnectionState, authz string) (string, error) {
	e, err := c.certificate(ctx, "smtp", cs, authz)
	if err != nil {
		return "", classify(err)
	}
	return e.Mailbox, nil
}

func (c *Checker) certificate(ctx context.Context, service string, cs *tls.ConnectionState, authz string) (*directory.Entry, error) {
	if cs == nil || len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0][0].EmailAddresses) == 0 {
		return nil, fmt.Errorf("%w: the certificate names no mail address", errRefused)
	}
	e, err := c.find(ctx, cs.VerifiedChains[0][0].EmailAddresses[0])
	if err != nil {
		return nil, err
	}
	if !e.MayLogin() {
		return nil, fmt.Errorf("%w: %s is not active", errRefused, e.DN)
	}
	if err := c.access(ctx, e, service); err != nil {
		return nil, err
	}
	return e, c.same(ctx, e, authz)
}

func classify(err error) error {
	if errors.Is(err, errRefused) {
		return &mail.Error{Op: "login", Status: mail.StatusRefused, Reply: "Authentication failed", Err: err}
	}
	return err
}

// Proxy is proxy.Config's Login.
func (c *Checker) Proxy(ctx context.Context, cred auth.Credentials, client proxy.Client) (proxy.User, error) {
	var e *directory.Entry
	var err error
	ctx = at(ctx, client.Addr.Addr(), client.TLS != nil)
	service := "imap"
	if client.Protocol == proxy.POP3 {
		service = "pop"
	}
	if cred.Mechanism == auth.External {
		e, err = c.certificate(ctx, service, client.TLS, cred.Authz)
	} else {
		e, err = c.user(ctx, service, cred.User, cred.Password, cred.Authz)
	}
	if errors.Is(err, errRefused) {
		return proxy.User{}, fmt.Errorf("%w: %w", proxy.ErrRefused, err)
	}
	if err != nil {
		return proxy.User{}, err
	}
	pair, ok := c.Pair(e.MailHost)
	if !ok {
		return proxy.User{}, fmt.Errorf("mailHost %q of %s names no pair that is known here", e.MailHost, e.DN)
	}
	return proxy.User{Account: e.Mailbox, Pair: pair}, nil
}

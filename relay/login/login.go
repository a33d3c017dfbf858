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
    account. A store administrator (mailAdminRole) may open every mailbox by IMAP
    and POP, from the networks where that is permitted, and each time is logged
    with both names.
  - A certificate stands for the user that its domain's inetDomainCertMap makes
    of it, in that domain, else for the one with its mail address.
  - The access filter of the domain is applied first, then the user's; both must
    allow the service and the client. A filter that cannot be read allows nothing.
    So does one that hangs on a netgroup that is not there or makes no sense.

Package login keeps nothing (the directory's cache remembers checked passwords)
and counts no failures (the servers do).
*/
package login

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

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
	// Netgroups are those that access filters name; nil: a filter that names one
	// allows nothing.
	Netgroups *Netgroups
	// VerifyCertificate lets a certificate log in only if the entry of its user
	// has it too.
	VerifyCertificate bool
	// AdminFrom reports whether store administrators may act as others from an
	// address; nil: nowhere. Log is told each time that one does.
	AdminFrom func(addr netip.Addr) bool
	Log       *slog.Logger
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
	return c.acting(ctx, service, e, authz)
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

// acting is the user that e acts as: itself, or for a store administrator, by
// IMAP or POP and from where that is permitted, whoever authz leads to.
func (c *Checker) acting(ctx context.Context, service string, e *directory.Entry, authz string) (*directory.Entry, error) {
	if authz == "" {
		return e, nil
	}
	other, err := c.find(ctx, authz)
	if err != nil {
		return nil, err
	}
	if other.DN == e.DN {
		return e, nil
	}
	w, _ := ctx.Value(whereKey{}).(where)
	if !e.StoreAdmin || service == "smtp" || c.AdminFrom == nil || !w.addr.IsValid() || !c.AdminFrom(w.addr.Unmap()) {
		return nil, fmt.Errorf("%w: %s may not act as %q", errRefused, e.DN, authz)
	}
	if c.Log != nil {
		c.Log.Warn("administrator acts as a user", "admin", e.DN, "user", other.DN, "account", other.Mailbox, "service", service, "client", w.addr)
	}
	return other, nil
}

// Password implements smtpd.Authenticator.
func (c *Checker) Password(ctx context.Context, user, password, authz string) (string, error) {
	e, err := c.user(ctx, "smtp", user, password, authz)
	if err != nil {
		return "", classify(err)
	}
	return e.Mailbox, nil
}

// Certificate implements smtpd.Authenticator: the login is what its domain makes
// of the certificate, or its mail address (RFC 822 name).
func (c *Checker) Certificate(ctx context.Context, cs *tls.ConnectionState, authz string) (string, error) {
	e, err := c.certificate(ctx, "smtp", cs, authz)
	if err != nil {
		return "", classify(err)
	}
	return e.Mailbox, nil
}

func (c *Checker) certificate(ctx context.Context, service string, cs *tls.ConnectionState, authz string) (*directory.Entry, error) {
	if cs == nil || len(cs.VerifiedChains) == 0 {
		return nil, fmt.Errorf("%w: no verified certificate", errRefused)
	}
	e, err := c.holder(ctx, cs.VerifiedChains[0][0], authz)
	if err != nil {
		return nil, err
	}
	if c.VerifyCertificate && !slices.Contains(e.Certificates, string(cs.VerifiedChains[0][0].Raw)) {
		return nil, fmt.Errorf("%w: the certificate is not in the entry of %s", errRefused, e.DN)
	}
	if !e.MayLogin() {
		return nil, fmt.Errorf("%w: %s is not active", errRefused, e.DN)
	}
	if err := c.access(ctx, e, service); err != nil {
		return nil, err
	}
	return c.acting(ctx, service, e, authz)
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

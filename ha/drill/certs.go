package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Certs are the certificates of a cluster whose CA is at hand.
type Certs struct {
	CA   string                   // its folder
	Node func(node string) string // folder with node.pem and, of a relay, public.pem
}

// Renew issues the certificates of a node again, with new keys. lifetime is that
// of the one between the tiers; 0 is the usual one.
func (c Certs) Renew(node string, lifetime time.Duration) error {
	ca, err := tlsconf.OpenCA(c.CA)
	if err != nil {
		return err
	}
	dir, now := c.Node(node), time.Now()
	old, err := tlsconf.ReadCert(filepath.Join(dir, "node.pem"))
	if err != nil {
		return err
	}
	id, err := tlsconf.IdentityOf(old)
	if err != nil {
		return err
	}
	if _, err := ca.Issue(filepath.Join(dir, "node"), tlsconf.Request{Node: id.Node, Roles: id.Roles, Lifetime: lifetime}, now); err != nil {
		return err
	}
	if lifetime > 0 {
		return nil
	}
	_, err = ca.Renew(filepath.Join(dir, "public"), now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

const (
	// reloadWithin is the time of a node to see that its files have changed.
	reloadWithin = 15 * time.Second
	// LastsFor is the life of a certificate that is to expire: more than a node
	// needs to see it.
	LastsFor = 12 * time.Second
	// expireWithin bounds it all.
	expireWithin = LastsFor + 5*time.Second
)

// certEnds asks a node when the certificate ends that it uses.
func (f *field) certEnds(ctx context.Context, node string) (time.Time, error) {
	n, err := f.node(node)
	if err != nil {
		return time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
	return s.CertEnds, err
}

// certRotation issues every certificate again while all of them are in use.
func certRotation(ctx context.Context, f *field) error {
	before := map[string]time.Time{}
	var names []string
	for _, n := range f.t.Nodes() {
		if n.Pair != "" && n.Pair != f.pair {
			continue
		}
		ends, err := f.certEnds(ctx, n.Name)
		if err != nil {
			return err
		}
		before[n.Name], names = ends, append(names, n.Name)
	}
	for _, n := range names {
		if err := f.act(ctx, Action{Kind: RenewCert, Node: n}); err != nil {
			return err
		}
	}
	began, old := time.Now(), ""
	ok := f.until(ctx, reloadWithin, func() bool {
		for _, n := range names {
			if ends, err := f.certEnds(ctx, n); err != nil || ends.Equal(before[n]) {
				old = n
				return false
			}
		}
		return true
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !ok {
		return f.expect(false, "every node uses its new certificate", "%s does not after %v", old, reloadWithin)
	}
	broken := f.expect(true, "every node uses its new certificate", "%d nodes, %v after, none was restarted", len(names), time.Since(began).Round(time.Millisecond))
	// New connections between the tiers have to be made with them.
	if err := f.handOver(ctx); err != nil {
		return errors.Join(broken, err)
	}
	if err := f.wait(ctx, f.hold/2); err != nil {
		return err
	}
	return errors.Join(broken, f.awaitWell(ctx, wellWithin))
}

// certExpiry lets the certificate of the serving replica run out. What is
// connected goes on; nobody trusts a new connection until it is renewed.
func certExpiry(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: ExpireCert, Node: was}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	from := time.Now()
	broken := errors.Join(f.refuses(ctx), f.saysExpired(ctx, was))
	if err := f.wait(ctx, f.hold-time.Since(from)); err != nil {
		return err
	}
	if err := f.back(ctx, a); err != nil {
		return err
	}
	began := time.Now()
	ok := f.until(ctx, reloadWithin, func() bool {
		ends, err := f.certEnds(ctx, was)
		return err == nil && ends.After(time.Now())
	})
	return errors.Join(broken, f.expect(ok, "the new certificate is used", "%v after it was there, without a restart", time.Since(began).Round(time.Millisecond)),
		f.awaitWell(ctx, wellWithin), f.noBounce())
}

// refuses asserts that no relay trusts a new connection to the serving replica:
// who logs in now is told to come again.
func (f *field) refuses(ctx context.Context) error {
	patient := *f.user.Access
	patient.Timeout = readWithin
	err := patient.Login(ctx, f.user.User)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f.expect(err != nil && !strings.Contains(err.Error(), "AUTHENTICATIONFAILED") && strings.Contains(err.Error(), "not available now"),
		"an expired certificate is refused", "a login by each relay: %v", err)
}

// saysExpired asserts that the node whose certificate has ended is not ready,
// which its figures and /readyz say too, and says why.
func (f *field) saysExpired(ctx context.Context, node string) error {
	n, err := f.node(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
	if err != nil {
		return err
	}
	return f.expect(strings.HasPrefix(s.State, "certificate: it ended"), "an expired certificate is loud", "%s says that it is %q", node, s.State)
}

// seeExpired asks the node itself, by its socket.
func (f *field) seeExpired(ctx context.Context, node string) (string, error) {
	ends, err := f.certEnds(ctx, node)
	if err != nil {
		return "", err
	}
	if left := time.Until(ends); left > 0 {
		return "", fmt.Errorf("the certificate of %s ends in %v", node, left.Round(time.Second))
	}
	return fmt.Sprintf("%s uses a certificate that ended at %s", node, ends.UTC().Format(time.TimeOnly)), nil
}

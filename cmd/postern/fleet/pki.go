package fleet

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Rotation replaces the certificates of a running cluster, node by node, and with
// them their CA unless Next is nil. What is done already is seen from the nodes, so
// that one that was cut off goes on where it ended.
type Rotation struct {
	CA, Next *tlsconf.CA
	Dir      string        // of CA
	Overlap  bool          // end while both CAs are trusted
	Within   time.Duration // without Next: only certificates that end within this; 0 is all
	Without  []string      // members that do not come back
	Settle   time.Duration // for a node to be well, and seen by the others, with its new certificate
	Say      func(format string, args ...any)
}

// holder is a node, or the operator, whose certificate is replaced.
type holder interface {
	title() string
	look(ctx context.Context) (admin.Certificates, error)
	trust(ctx context.Context, pem string) error
	request(ctx context.Context) ([]byte, error)
	install(ctx context.Context, pem []byte) error
}

// nodeHolder is a node, asked within the time limit.
type nodeHolder struct {
	f *Fleet
	n *Node
}

func within[In, Out any](ctx context.Context, h nodeHolder, m admin.Method[In, Out], in In) (Out, error) {
	ctx, cancel := context.WithTimeout(ctx, h.f.timeout)
	defer cancel()
	return Call(ctx, h.n, m, in)
}

func (h nodeHolder) title() string { return h.n.Title() }

func (h nodeHolder) look(ctx context.Context) (admin.Certificates, error) {
	return within(ctx, h, admin.PKIStatus, admin.None{})
}

func (h nodeHolder) trust(ctx context.Context, pem string) error {
	_, err := within(ctx, h, admin.PKITrust, admin.PEM{Text: admin.Hidden(pem)})
	return err
}

func (h nodeHolder) request(ctx context.Context) ([]byte, error) {
	r, err := within(ctx, h, admin.PKIRequest, admin.None{})
	return r.Request, err
}

func (h nodeHolder) install(ctx context.Context, pem []byte) error {
	_, err := within(ctx, h, admin.PKIInstall, admin.PEM{Text: admin.Hidden(pem)})
	return err
}

// ownHolder is the operator, whose files are on this machine.
type ownHolder struct {
	s     *tlsconf.Store
	caDir bool // the CAs it trusts are in the file of the CA itself, which changes last
}

func (h ownHolder) title() string { return "the certificate of " + h.s.Identity().Node }

func (h ownHolder) look(context.Context) (c admin.Certificates, _ error) {
	c.Cert = h.s.Chain()[0]
	for _, ca := range h.s.Trusted() {
		c.CAs = append(c.CAs, ca.Raw)
	}
	return c, nil
}

func (h ownHolder) trust(_ context.Context, pem string) error {
	if h.caDir && strings.Count(pem, "BEGIN CERTIFICATE") == 1 {
		return nil
	}
	return h.s.SetTrust([]byte(pem))
}

func (h ownHolder) request(context.Context) ([]byte, error)     { return h.s.Request() }
func (h ownHolder) install(_ context.Context, pem []byte) error { return h.s.Install(pem) }

// sameFile reports whether the operator's file of CAs is this one.
func (f *Fleet) sameFile(name string) bool {
	of := f.ca
	if f.Dev != nil {
		of = f.Dev.CA
	}
	a, aerr := os.Stat(of)
	b, berr := os.Stat(name)
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

// RotatePKI runs r. First every node trusts both CAs, then one after the other gets
// a certificate of the new one, then every node trusts the new one only. No step
// begins before all nodes have done the one before, and the first node that fails
// ends it.
func (f *Fleet) RotatePKI(ctx context.Context, r Rotation) error {
	nodes, err := f.everyMember(ctx, r.Without)
	if err != nil {
		return err
	}
	own, err := f.operator()
	if err != nil {
		return err
	}
	// The operator first: from then on a node with either certificate is believed.
	var all []holder
	if own != nil {
		all = append(all, ownHolder{own, f.sameFile(filepath.Join(r.Dir, tlsconf.CACertName))})
	}
	for _, n := range nodes {
		all = append(all, nodeHolder{f, n})
	}
	ca := r.CA
	if r.Next != nil {
		ca = r.Next
		if err := r.trusting(ctx, all, string(r.CA.CertPEM())+string(r.Next.CertPEM()), r.CA, r.Next); err != nil {
			return err
		}
	}
	for _, h := range all {
		done, err := r.renew(ctx, h, ca)
		if err != nil {
			return r.stopped(h, err)
		}
		if n, ok := h.(nodeHolder); ok && done {
			if err := f.settled(ctx, n.n, nodes, r.Settle); err != nil {
				return r.stopped(h, err)
			}
		}
	}
	if r.Next == nil || r.Overlap {
		return nil
	}
	for _, h := range all {
		if old, err := r.of(ctx, h, r.Next); err != nil || old {
			return r.stopped(h, errors.Join(err, errors.New("its certificate is not of the new CA")))
		}
	}
	return r.trusting(ctx, all, string(r.Next.CertPEM()), r.Next)
}

func (r *Rotation) stopped(h holder, err error) error {
	return fmt.Errorf("%s: %w: go on by the same command when that is mended", h.title(), err)
}

// operator is the certificate by which this program comes to the nodes, nil when
// it comes by their sockets alone.
func (f *Fleet) operator() (*tlsconf.Store, error) {
	if f.own != nil || f.Dev == nil {
		return f.own, nil
	}
	return tlsconf.Load(tlsconf.Files{CertFile: f.Dev.Admin.Cert, KeyFile: f.Dev.Admin.Key, CAFile: f.Dev.CA})
}

// trusting has all trust exactly these CAs. A holder that trusts only the new one
// already is past the step with both.
func (r *Rotation) trusting(ctx context.Context, all []holder, pem string, cas ...*tlsconf.CA) error {
	for _, h := range all {
		c, err := h.look(ctx)
		if err != nil {
			return r.stopped(h, err)
		}
		have := map[tlsconf.Fingerprint]bool{}
		for _, der := range c.CAs {
			have[tlsconf.FingerprintOf(der)] = true
		}
		last := cas[len(cas)-1].Fingerprint()
		if len(have) == len(cas) && have[cas[0].Fingerprint()] && have[last] || len(have) == 1 && have[last] {
			continue
		}
		if err := h.trust(ctx, pem); err != nil {
			return r.stopped(h, err)
		}
		r.Say("%s: trusts %s", h.title(), map[bool]string{true: "both CAs", false: "the new CA only"}[len(cas) > 1])
	}
	return nil
}

// of reports whether the certificate of h is of another CA than ca.
func (r *Rotation) of(ctx context.Context, h holder, ca *tlsconf.CA) (other bool, err error) {
	c, err := h.look(ctx)
	if err != nil {
		return false, err
	}
	cert, err := x509.ParseCertificate(c.Cert)
	if err != nil {
		return false, err
	}
	return !ca.Issued(cert), nil
}

// renew gives h a certificate of ca, unless it has one.
func (r *Rotation) renew(ctx context.Context, h holder, ca *tlsconf.CA) (done bool, err error) {
	c, err := h.look(ctx)
	if err != nil {
		return false, err
	}
	old, err := x509.ParseCertificate(c.Cert)
	if err != nil {
		return false, err
	}
	switch {
	case r.Next != nil && ca.Issued(old):
		return false, nil
	case r.Next == nil && r.Within > 0 && time.Until(old.NotAfter) > r.Within:
		return false, nil
	case !r.CA.Issued(old):
		return false, errors.New("its certificate is not of the CA in the folder")
	}
	req, err := h.request(ctx)
	if err != nil {
		return false, err
	}
	pem, err := ca.Sign(req, old, time.Now())
	if err != nil {
		return false, err
	}
	if err := h.install(ctx, pem); err != nil {
		return false, err
	}
	r.Say("%s: has a new certificate", h.title())
	return true, nil
}

// settled waits until n is well and every other node sees it alive.
func (f *Fleet) settled(ctx context.Context, n *Node, nodes []*Node, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := f.well(ctx, n, nodes)
		if err == nil {
			return nil
		}
		if !pause(ctx, askAgain) {
			return fmt.Errorf("not well within %v: %w", within, err)
		}
	}
}

func (f *Fleet) well(ctx context.Context, n *Node, nodes []*Node) error {
	s, err := Call(ctx, n, admin.GetStatus, admin.None{})
	if err != nil {
		return err
	}
	if s.State != "ready" && !strings.HasPrefix(s.State, "draining") {
		return fmt.Errorf("it is %s", s.State)
	}
	for _, r := range All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.Cluster, error) {
		return Call(ctx, n, admin.GetCluster, admin.None{})
	}) {
		if r.Err != nil {
			return r.Err
		}
		seen := len(r.Value.Nodes) == 0 // no gossip
		for _, m := range r.Value.Nodes {
			seen = seen || m.Name == n.Name && m.State != "dead" && m.State != "left"
		}
		if !seen {
			return fmt.Errorf("%s does not see it", r.Node.Title())
		}
	}
	return nil
}

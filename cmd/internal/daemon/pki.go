package daemon

import (
	"context"
	"fmt"

	"github.com/postern-mail/postern/shared/admin"
)

// pki answers whoever replaces certificates and CA of a running cluster.
func (n *Node[T]) pki() {
	change := func(f func(pem []byte) error) func(context.Context, admin.PEM) (admin.Certificates, error) {
		return func(_ context.Context, in admin.PEM) (admin.Certificates, error) {
			if err := f([]byte(in.Text)); err != nil {
				return admin.Certificates{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
			}
			n.Changed()
			return n.certificates(), nil
		}
	}
	admin.Handle(n.Admin, admin.PKIStatus, func(context.Context, admin.None) (admin.Certificates, error) { return n.certificates(), nil })
	admin.Handle(n.Admin, admin.PKITrust, change(n.TLS.SetTrust))
	admin.Handle(n.Admin, admin.PKIInstall, change(n.TLS.Install))
	admin.Handle(n.Admin, admin.PKIRequest, func(context.Context, admin.None) (admin.CertRequest, error) {
		req, err := n.TLS.Request()
		if err != nil {
			err = fmt.Errorf("%w: %w", admin.ErrConflict, err)
		}
		return admin.CertRequest{Request: req}, err
	})
}

func (n *Node[T]) certificates() admin.Certificates {
	out := admin.Certificates{Cert: n.TLS.Chain()[0]}
	for _, ca := range n.TLS.Trusted() {
		out.CAs = append(out.CAs, ca.Raw)
	}
	return out
}

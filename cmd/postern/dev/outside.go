package dev

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// probeWithin is how long an outside directory may take to answer.
const probeWithin = 10 * time.Second

// outside asks an outside directory whether it has an entry for the domain; a
// plain directory has none, and the relays are told about the domain then.
func (l *layout) outside(ctx context.Context, o *Options) error {
	if o.Directory == "" {
		return nil
	}
	d, err := ldap.New(ldap.Config{
		Servers: []string{o.Directory}, Base: o.Base, BindDN: o.BindDN, Password: o.BindPassword, DefaultDomain: l.Domains[0],
	})
	if err != nil {
		return err
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	switch _, err := d.Domain(ctx, l.Domains[0]); {
	case err == nil:
		l.Unlisted = false
	case errors.Is(err, directory.ErrNotFound):
		l.Unlisted = true
	default:
		return fmt.Errorf("%s: %w", o.Directory, err)
	}
	return nil
}

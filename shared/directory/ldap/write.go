package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
)

// ErrExists says that an entry of that name is there already.
var ErrExists = errors.New("directory: entry exists already")

// Modification replaces all values of one attribute; without values the
// attribute is removed.
type Modification struct {
	Attribute string
	Values    []string
}

// Add makes an entry. ErrExists when there is one of that name,
// directory.ErrNotFound when there is nothing to put it below.
//
// Writing goes to the master when one is configured, otherwise to the server
// that searches would ask. A change whose connection broke is sent again and
// its result compared: what an earlier try has done counts as done.
func (d *Directory) Add(ctx context.Context, dn string, attrs directory.Attributes) error {
	req := ldap.NewAddRequest(dn, nil)
	for _, a := range attrs {
		if len(a.Values) > 0 {
			req.Attribute(a.Name, a.Values)
		}
	}
	return d.write(ctx, "add", dn, func(c *ldap.Conn, again bool) error {
		err := c.Add(req)
		if again && ldap.IsErrorWithCode(err, ldap.LDAPResultEntryAlreadyExists) && holds(c, dn, attrs) {
			return nil
		}
		return err
	})
}

// Modify changes an entry: all of mods, or none.
func (d *Directory) Modify(ctx context.Context, dn string, mods []Modification) error {
	req := ldap.NewModifyRequest(dn, nil)
	for _, m := range mods {
		req.Replace(m.Attribute, m.Values)
	}
	return d.write(ctx, "modify", dn, func(c *ldap.Conn, _ bool) error { return c.Modify(req) })
}

// Delete removes an entry that has nothing below it.
func (d *Directory) Delete(ctx context.Context, dn string) error {
	req := ldap.NewDelRequest(dn, nil)
	return d.write(ctx, "delete", dn, func(c *ldap.Conn, again bool) error {
		err := c.Del(req)
		if again && ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
			return nil
		}
		return err
	})
}

// Rename gives an entry another first part of its name and unless below is empty
// another place; what is below the entry goes with it. The old value of the
// first part goes, unless keep is set. ErrExists when there is an entry of the
// new name.
func (d *Directory) Rename(ctx context.Context, dn, rdn, below string, keep bool) error {
	parent := below
	if parent == "" {
		parent = Parent(dn)
	}
	to := rdn + "," + parent
	if err := d.insideAny(to); err != nil {
		return fmt.Errorf("rename %s to %s: %w", dn, to, err)
	}
	req := ldap.NewModifyDNRequest(dn, rdn, !keep, below)
	return d.write(ctx, "rename", dn, func(c *ldap.Conn, again bool) error {
		err := c.ModifyDN(req)
		if again && ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) && holds(c, to, nil) {
			return nil
		}
		return err
	})
}

func (d *Directory) write(ctx context.Context, what, dn string, run func(c *ldap.Conn, again bool) error) error {
	if err := d.insideAny(dn); err != nil {
		return fmt.Errorf("%s %s: %w", what, dn, err)
	}
	p := d.pool
	if d.master != nil {
		p = d.master.pool
	}
	tries := 0
	err := p.do(ctx, &query{op: "write", stock: func(s *server) *stock[*ldap.Conn] { return s.writes }, run: func(c *ldap.Conn) error {
		tries++
		return run(c, tries > 1)
	}})
	switch {
	case err == nil:
		return nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultEntryAlreadyExists):
		err = ErrExists
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		err = directory.ErrNotFound
	}
	return fmt.Errorf("%s %s: %w", what, dn, err)
}

// Unanswered reports whether err, of a write, leaves open whether it was done: no
// server said that it was not.
func Unanswered(err error) bool {
	if err == nil || errors.Is(err, ErrExists) || errors.Is(err, directory.ErrNotFound) {
		return false
	}
	var le *ldap.Error
	if errors.As(err, &le) {
		return le.ResultCode >= ldap.ErrorNetwork
	}
	return errors.Is(err, directory.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// holds reports whether the entry dn has the values of attrs, as far as they
// can be read.
func holds(c *ldap.Conn, dn string, attrs directory.Attributes) bool {
	res, err := c.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false, anything, []string{"*"}, nil))
	if err != nil || len(res.Entries) != 1 {
		return false
	}
	have := attributes(res.Entries[0])
	for _, a := range attrs {
		got := have.Get(a.Name)
		if strings.EqualFold(a.Name, "userPassword") && len(got) == 0 {
			continue // not for everybody to see
		}
		for _, v := range a.Values {
			if !slices.Contains(got, v) {
				return false
			}
		}
	}
	return true
}

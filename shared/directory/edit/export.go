package edit

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// Export says what to write out.
type Export struct {
	Kind   Kind   // of the entries; "" is all
	Domain string // only this domain; "" is all
	// Secrets includes passwords, as they are stored.
	Secrets bool
}

// List calls each with the entries that x selects, domains first, as they come
// from the server.
func (ed *Editor) List(ctx context.Context, x Export, each func(kind Kind, dn string, raw directory.Attributes) error) error {
	base := ed.d.Base()
	if x.Domain != "" {
		n, err := directory.NormalizeDomain(x.Domain)
		if err != nil {
			return badf("domain %q: want a name such as example.org", x.Domain)
		}
		d, err := ed.check.Domain(ctx, n)
		if err != nil {
			return fmt.Errorf("domain %s: %w", n, err)
		}
		base = d.BaseDN
		if x.Kind == "" || x.Kind == Domain {
			dn, raw, err := ed.raw(ctx, d.DN)
			if err == nil {
				err = ed.pass(x, Domain, dn, raw, each)
			}
			if err != nil {
				return err
			}
		}
	} else if x.Kind == "" || x.Kind == Domain {
		if err := ed.listDomains(ctx, x, each); err != nil {
			return err
		}
	}
	if x.Kind == Domain {
		return nil
	}
	return ed.d.Scan(ctx, base, ldap.MailEntries, nil, func(dn string, raw directory.Attributes) error {
		if kind := ed.kindOf(dn, raw); (kind == User || kind == Group) && (x.Kind == "" || x.Kind == kind) {
			return ed.pass(x, kind, dn, raw, each)
		}
		return nil
	})
}

// listDomains is List for all domains: those of the DC tree, with its aliases
// unless a table is wanted, and of the organization tree.
func (ed *Editor) listDomains(ctx context.Context, x Export, each func(kind Kind, dn string, raw directory.Attributes) error) error {
	if ed.d.DCRoot() != "" && ed.s.Layout != directory.LayoutOrganization {
		err := ed.d.Scan(ctx, ed.d.DCRoot(), ldap.Everything, nil, func(dn string, raw directory.Attributes) error {
			if ed.kindOf(dn, raw) != Domain || x.Kind == Domain && !hasClass(raw, nodeClass) {
				return nil
			}
			return ed.pass(x, Domain, dn, raw, each)
		})
		if err != nil {
			return err
		}
	}
	if ed.s.Layout == directory.LayoutDC || ed.s.DomainClass == "" {
		return nil
	}
	return ed.d.Scan(ctx, ed.d.Base(), ldap.DomainEntries, nil, func(dn string, raw directory.Attributes) error {
		if ed.s.Layout == directory.LayoutCompatible && x.Kind == Domain {
			// One that has a node has been listed by it.
			d, err := ed.check.Domain(ctx, raw.First(ed.s.PreferredDomain))
			if err == nil && ed.d.InTree(d.DN) {
				return nil
			}
		}
		return ed.pass(x, Domain, dn, raw, each)
	})
}

func (ed *Editor) pass(x Export, kind Kind, dn string, raw directory.Attributes, each func(Kind, string, directory.Attributes) error) error {
	if !x.Secrets {
		raw = slices.DeleteFunc(raw, func(a directory.Attribute) bool { return Secret(ed.s, a.Name) })
	}
	ed.spell(raw)
	return each(kind, dn, raw)
}

// WriteLDIF writes what x selects as LDIF.
func (ed *Editor) WriteLDIF(ctx context.Context, w io.Writer, x Export) (n int, err error) {
	var buf []byte
	err = ed.List(ctx, x, func(_ Kind, dn string, raw directory.Attributes) error {
		n++
		buf = embedded.AppendRecord(buf[:0], dn, raw)
		_, err := w.Write(buf)
		return err
	})
	return n, err
}

// WriteCSV writes what x selects, entries of one kind, as a table that CSV
// reads.
func (ed *Editor) WriteCSV(ctx context.Context, w io.Writer, x Export) (n int, err error) {
	name := "address"
	if x.Kind == Domain {
		name = "domain"
	}
	columns := []string{name}
	for _, f := range Fields(x.Kind) {
		if f.Name == "member" || f.attr(ed.s) != "" {
			if f.Name != name && (x.Secrets || f.Name != "password") {
				columns = append(columns, f.Name)
			}
		}
	}
	if len(columns) == 1 {
		return 0, badf("kind %q: a table has domains, users or groups", x.Kind)
	}
	c := csv.NewWriter(w)
	if err := c.Write(columns); err != nil {
		return 0, err
	}
	row := make([]string, len(columns))
	err = ed.List(ctx, x, func(_ Kind, dn string, raw directory.Attributes) error {
		n++
		for i, h := range columns {
			var err error
			if row[i], err = ed.cell(ctx, x.Kind, h, dn, raw); err != nil {
				return fmt.Errorf("%s: %w", dn, err)
			}
		}
		if row[0] == "" {
			return fmt.Errorf("%s has no %s: write it as LDIF", dn, name)
		}
		return c.Write(row)
	})
	c.Flush()
	return n, errors.Join(err, c.Error())
}

// cell is a field of an entry as a cell.
func (ed *Editor) cell(ctx context.Context, kind Kind, name, dn string, raw directory.Attributes) (string, error) {
	var values []string
	multi := true
	switch {
	case name == "domain" && kind == Domain:
		return ed.domainName(dn, raw), nil
	case name == "alias" && ed.d.InTree(dn):
		nodes, err := ed.aliases(ctx, dn)
		if err != nil {
			return "", err
		}
		values = sortedKeys(nodes)
	case name == "member":
		for _, attr := range slices.Concat(ed.s.MemberDN, ed.s.MemberAddress, ed.s.MemberURL) {
			values = append(values, raw.Get(attr)...)
		}
	default:
		f := field(kind, name)
		values, multi = raw.Get(f.attr(ed.s)), f.Multi
	}
	if !multi && len(values) > 1 && name == "name" {
		// One of them is only there because the entry is named by it.
		values = less(values, []string{localPart(raw.First(ed.s.Mail))})
	}
	if !multi {
		return strings.Join(values[:min(1, len(values))], ""), nil
	}
	for _, v := range values {
		if strings.Contains(v, ";") {
			return "", fmt.Errorf("%s has a semicolon in %q: write it as LDIF", name, v)
		}
	}
	return strings.Join(values, ";"), nil
}

func localPart(address string) string {
	return address[:max(0, strings.LastIndexByte(address, '@'))]
}

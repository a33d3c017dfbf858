package edit

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// Bounds of a table.
const (
	maxColumns = 200
	maxCell    = 1 << 20
)

// Row is one request of a file.
type Row struct {
	Line int
	Name string // what the row is about, as the file has it
	// Do carries it out.
	Do func(ctx context.Context, ed *Editor) (*Result, error)
}

// CSV reads a table whose first line names the columns: "kind" (domain, user or
// group; without that column all rows are of kind), "address" or, for domains,
// "domain", and fields of that kind. Values of a field that may have several
// are separated by semicolons. An empty cell says nothing, and "-" removes what
// an entry has. update says that entries that exist are changed.
//
// take is called with each row; its error ends the reading.
func CSV(r io.Reader, kind Kind, update bool, take func(Row) error) error {
	c := csv.NewReader(r)
	c.ReuseRecord, c.TrimLeadingSpace = true, true
	head, err := c.Read()
	if err == io.EOF {
		return errors.New("CSV: no line with the names of the columns")
	}
	if err != nil {
		return fmt.Errorf("CSV: %w", err)
	}
	columns, err := header(head, kind)
	if err != nil {
		return err
	}
	op := Add
	if update {
		op = Put
	}
	for {
		rec, err := c.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("CSV: %w", err)
		}
		line, _ := c.FieldPos(0)
		if slices.ContainsFunc(rec, func(cell string) bool { return !utf8.ValidString(cell) }) {
			return fmt.Errorf("CSV: line %d is not UTF-8: save the table as UTF-8", line)
		}
		req, err := request(columns, rec, kind, op)
		row := Row{Line: line, Name: req.Name, Do: func(ctx context.Context, ed *Editor) (*Result, error) {
			if err != nil {
				return nil, err
			}
			return ed.Do(ctx, req)
		}}
		if err := take(row); err != nil {
			return err
		}
	}
}

func header(head []string, kind Kind) ([]string, error) {
	if len(head) > maxColumns {
		return nil, fmt.Errorf("CSV: %d columns are too many", len(head))
	}
	var columns []string
	named := false
	for i, h := range head {
		h = strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))
		if !strings.HasPrefix(h, "attr:") {
			h = strings.ToLower(h)
		}
		if h == "" || slices.Contains(columns, h) {
			return nil, fmt.Errorf("CSV: column %d has no name, or one that is there already: %q", i+1, h)
		}
		named = named || h == "address" || h == "domain"
		columns = append(columns, h)
	}
	if !named && len(head) == 1 && strings.ContainsAny(head[0], ";\t") {
		return nil, errors.New("CSV: no column address or domain: columns are separated by commas")
	}
	if !named {
		return nil, errors.New("CSV: no column address or domain")
	}
	for _, h := range columns {
		known := h == "kind" || h == "domain" || strings.HasPrefix(h, "attr:")
		for _, k := range []Kind{Domain, User, Group} {
			if (kind == "" || k == kind || slices.Contains(columns, "kind")) && field(k, h) != nil {
				known = true
			}
		}
		if !known {
			return nil, fmt.Errorf("CSV: no field %q", h)
		}
	}
	return columns, nil
}

// request is what a row asks for.
func request(columns, rec []string, kind Kind, op Op) (Request, error) {
	req := Request{Op: op, Kind: kind, Values: Values{}}
	if i := slices.Index(columns, "kind"); i >= 0 && strings.TrimSpace(rec[i]) != "" {
		req.Kind = Kind(strings.ToLower(strings.TrimSpace(rec[i])))
	}
	switch req.Kind {
	case Domain, User, Group:
	default:
		return req, badf("kind %q: want domain, user or group", req.Kind)
	}
	name := "address"
	if req.Kind == Domain {
		name = "domain"
	}
	for i, h := range columns {
		cell := strings.TrimSpace(rec[i])
		switch {
		case h == name:
			req.Name = strings.Clone(cell)
			continue
		case h == "kind" || h == "domain" || h == "address" || cell == "":
			continue
		case len(cell) > maxCell:
			return req, badf("%s: %d octets are too many", h, len(cell))
		case cell == "-":
			req.Values[h] = nil
			continue
		}
		f := field(req.Kind, h)
		if f == nil && !strings.HasPrefix(h, "attr:") {
			return req, badf("a %s has no field %q", req.Kind, h)
		}
		cell = strings.Clone(cell)
		if f != nil && !f.Multi {
			req.Values[h] = []string{cell}
			continue
		}
		for v := range strings.SplitSeq(cell, ";") {
			if v = strings.TrimSpace(v); v != "" {
				req.Values[h] = append(req.Values[h], v)
			}
		}
	}
	if req.Name == "" {
		return req, badf("no %s", name)
	}
	return req, nil
}

// LDIF reads entries and changes (RFC 2849). Entries are added or, with update,
// changed in the attributes that the file has when they exist.
func LDIF(r io.Reader, update bool, take func(Row) error) error {
	for rec, err := range embedded.Records(r) {
		if err != nil {
			return err
		}
		row := Row{Line: rec.Line, Name: rec.DN, Do: func(ctx context.Context, ed *Editor) (*Result, error) { return ed.record(ctx, rec, update) }}
		if err := take(row); err != nil {
			return err
		}
	}
	return nil
}

// record carries out one record of LDIF.
func (ed *Editor) record(ctx context.Context, rec *embedded.Record, update bool) (*Result, error) {
	if ed.broken != nil {
		return nil, ed.broken
	}
	if rec.Op == "rename" {
		return ed.whole(ctx, func() (*Result, error) { return ed.renameRecord(ctx, rec) })
	}
	dn, old, err := ed.raw(ctx, rec.DN)
	exists := err == nil
	if err != nil && !errors.Is(err, directory.ErrNotFound) {
		return nil, err
	}
	switch {
	case rec.Op == "add" && !exists:
		raw := clone(rec.Attributes)
		return ed.put(ctx, &Result{Op: Add, Kind: ed.kindOf(rec.DN, raw), DN: rec.DN}, nil, raw)
	case rec.Op == "add" && !update:
		return nil, fmt.Errorf("%s: %w", rec.DN, ldap.ErrExists)
	case !exists:
		return nil, fmt.Errorf("%s: %w", rec.DN, directory.ErrNotFound)
	case rec.Op == "delete":
		return ed.remove(ctx, Request{Op: Delete, Kind: ed.kindOf(dn, old), Name: dn})
	}
	raw := clone(old)
	for _, a := range rec.Attributes {
		put(&raw, a.Name, a.Values...)
	}
	for _, c := range rec.Changes {
		have := raw.Get(c.Attribute)
		switch {
		case c.Op == "add":
			have = more(have, c.Values)
		case c.Op == "replace":
			have = c.Values
		case len(c.Values) == 0:
			have = nil
		default:
			have = less(have, c.Values)
		}
		put(&raw, c.Attribute, have...)
	}
	return ed.put(ctx, &Result{Op: Set, Kind: ed.kindOf(dn, raw), DN: dn}, old, raw)
}

// kindOf is the kind of an entry by its object classes.
func (ed *Editor) kindOf(dn string, raw directory.Attributes) Kind {
	if ed.d.InTree(dn) {
		if hasClass(raw, nodeClass) || ed.s.DomainAliasMark != "" && hasClass(raw, ed.s.DomainAliasMark) {
			return Domain
		}
		return Other
	}
	if ed.isBase(dn) || ed.s.DomainClass != "" && hasClass(raw, ed.s.DomainClass) {
		return Domain
	}
	switch ed.s.KindOf(raw.Get("objectClass")) {
	case directory.User:
		return User
	case directory.Group:
		return Group
	}
	return Other
}

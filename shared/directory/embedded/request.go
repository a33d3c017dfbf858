package embedded

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// Application tags of the requests (RFC 4511 4.2-4.14).
const (
	opBind     = 0x60
	opUnbind   = 0x42
	opSearch   = 0x63
	opModify   = 0x66
	opAdd      = 0x68
	opDelete   = 0x4a
	opModifyDN = 0x6c
	opCompare  = 0x6e
	opAbandon  = 0x50
	opExtended = 0x77
)

// Application tags of the responses.
const (
	opBindResponse     = 0x61
	opSearchEntry      = 0x64
	opSearchDone       = 0x65
	opModifyResponse   = 0x67
	opAddResponse      = 0x69
	opDeleteResponse   = 0x6b
	opModifyDNResponse = 0x6d
	opCompareResponse  = 0x6f
	opExtendedResponse = 0x78
)

// Limits on what one request may hold.
const (
	maxControls   = 16
	maxAttributes = 1000   // attribute descriptions in a search or an entry
	maxValues     = 200000 // values in an add or modify
	maxDN         = 8192
	maxName       = 256 // attribute description
)

var errLimit = errors.New("request exceeds a limit")

type control struct {
	oid      string
	critical bool
	value    []byte
	hasValue bool
}

// request is one decoded LDAPMessage. Which fields count depends on op.
type request struct {
	id       int64
	op       byte
	controls []control

	dn string // bind name, base object, entry

	version  int64 // bind
	simple   bool
	mech     string // SASL mechanism when not simple
	creds    string
	password string

	scope     int64 // search
	sizeLimit int64
	timeLimit int64
	typesOnly bool
	filter    *filter
	wanted    []string

	attrs   []attribute // add
	changes []change    // modify

	newRDN      string // modifyDN
	deleteOld   bool
	newSuperior string
	hasSuperior bool

	attr, value string // compare

	oid     string // extended
	payload []byte
}

// change is one part of a modify request; kind is 0 add, 1 delete, 2 replace,
// 3 increment (RFC 4525).
type change struct {
	kind int64
	attribute
}

// decode reads the body of an LDAPMessage. When the envelope can be read but
// the operation cannot, the request has its id and op and err is not nil, so
// that the right response can say so.
func decode(body []byte) (*request, error) {
	id, rest, err := ber.ExpectInt(body, ber.TagInteger)
	if err != nil || id < 0 || id > 1<<31-1 {
		return nil, ber.ErrSyntax
	}
	e, rest, err := ber.Next(rest)
	if err != nil {
		return nil, err
	}
	r := &request{id: id, op: e.Tag}
	if len(rest) > 0 {
		if r.controls, err = decodeControls(rest); err != nil {
			return r, err
		}
	}
	return r, r.decodeOp(e.Body)
}

func (r *request) decodeOp(b []byte) (err error) {
	switch r.op {
	case opBind:
		return r.decodeBind(b)
	case opUnbind, opAbandon:
		return nil
	case opSearch:
		return r.decodeSearch(b)
	case opModify:
		return r.decodeModify(b)
	case opAdd:
		if r.dn, b, err = decodeString(b, maxDN); err != nil {
			return err
		}
		r.attrs, err = decodeAttributes(b)
		return err
	case opDelete:
		if len(b) > maxDN {
			return errLimit
		}
		r.dn = string(b)
		return nil
	case opModifyDN:
		return r.decodeModifyDN(b)
	case opCompare:
		return r.decodeCompare(b)
	case opExtended:
		oid, b, err := ber.Expect(b, 0x80)
		if err != nil || len(oid) > maxName {
			return ber.ErrSyntax
		}
		r.oid = string(oid)
		if len(b) > 0 {
			r.payload, _, err = ber.Expect(b, 0x81)
		}
		return err
	}
	return ber.ErrSyntax
}

func decodeControls(b []byte) ([]control, error) {
	list, rest, err := ber.Expect(b, 0xa0)
	if err != nil || len(rest) > 0 {
		return nil, ber.ErrSyntax
	}
	var out []control
	for len(list) > 0 {
		if len(out) == maxControls {
			return nil, errLimit
		}
		var body []byte
		if body, list, err = ber.Expect(list, ber.TagSequence); err != nil {
			return nil, err
		}
		var c control
		if c.oid, body, err = decodeString(body, maxName); err != nil {
			return nil, err
		}
		if len(body) > 0 && body[0] == ber.TagBoolean {
			if c.critical, body, err = ber.ExpectBool(body); err != nil {
				return nil, err
			}
		}
		if len(body) > 0 {
			if c.value, _, err = ber.Expect(body, ber.TagOctets); err != nil {
				return nil, err
			}
			c.hasValue = true
		}
		out = append(out, c)
	}
	return out, nil
}

func decodeString(b []byte, limit int) (s string, rest []byte, err error) {
	body, rest, err := ber.Expect(b, ber.TagOctets)
	if err != nil {
		return "", nil, err
	}
	if len(body) > limit {
		return "", nil, errLimit
	}
	return string(body), rest, nil
}

func (r *request) decodeBind(b []byte) (err error) {
	if r.version, b, err = ber.ExpectInt(b, ber.TagInteger); err != nil {
		return err
	}
	if r.dn, b, err = decodeString(b, maxDN); err != nil {
		return err
	}
	e, _, err := ber.Next(b)
	if err != nil {
		return err
	}
	r.simple = e.Tag == 0x80
	if r.simple {
		r.password = string(e.Body)
		return nil
	}
	if e.Tag != 0xa3 {
		return nil // an old method, which bind refuses
	}
	if r.mech, b, err = decodeString(e.Body, maxName); err != nil || len(b) == 0 {
		return err
	}
	r.creds, _, err = decodeString(b, maxDN)
	return err
}

func (r *request) decodeSearch(b []byte) (err error) {
	if r.dn, b, err = decodeString(b, maxDN); err != nil {
		return err
	}
	if r.scope, b, err = ber.ExpectInt(b, ber.TagEnumerated); err != nil {
		return err
	}
	if _, b, err = ber.ExpectInt(b, ber.TagEnumerated); err != nil { // derefAliases: there are none
		return err
	}
	if r.sizeLimit, b, err = ber.ExpectInt(b, ber.TagInteger); err != nil {
		return err
	}
	if r.timeLimit, b, err = ber.ExpectInt(b, ber.TagInteger); err != nil {
		return err
	}
	if r.typesOnly, b, err = ber.ExpectBool(b); err != nil {
		return err
	}
	if r.scope < 0 || r.scope > 2 || r.sizeLimit < 0 || r.timeLimit < 0 {
		return ber.ErrSyntax
	}
	e, b, err := ber.Next(b)
	if err != nil {
		return err
	}
	budget := maxFilterNodes
	if r.filter, err = decodeFilter(e, 0, &budget); err != nil {
		return err
	}
	list, _, err := ber.Expect(b, ber.TagSequence)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		var name string
		if name, list, err = decodeString(list, maxName); err != nil {
			return err
		}
		if len(r.wanted) == maxAttributes {
			return errLimit
		}
		r.wanted = append(r.wanted, strings.ToLower(name))
	}
	return nil
}

func decodeAttributes(b []byte) ([]attribute, error) {
	list, _, err := ber.Expect(b, ber.TagSequence)
	if err != nil {
		return nil, err
	}
	var out []attribute
	total := 0
	for len(list) > 0 {
		var body []byte
		if body, list, err = ber.Expect(list, ber.TagSequence); err != nil {
			return nil, err
		}
		a, err := decodeAttribute(body, &total)
		if err != nil {
			return nil, err
		}
		if len(out) == maxAttributes {
			return nil, errLimit
		}
		out = append(out, a)
	}
	return out, nil
}

func decodeAttribute(b []byte, total *int) (a attribute, err error) {
	if a.name, b, err = decodeString(b, maxName); err != nil {
		return a, err
	}
	if !validName(a.name) {
		return a, ber.ErrSyntax
	}
	a.lower = strings.ToLower(a.name)
	set, _, err := ber.Expect(b, ber.TagSet)
	if err != nil {
		return a, err
	}
	for len(set) > 0 {
		var v []byte
		if v, set, err = ber.Expect(set, ber.TagOctets); err != nil {
			return a, err
		}
		if *total++; *total > maxValues {
			return a, errLimit
		}
		a.values = append(a.values, string(v))
	}
	return a, nil
}

func (r *request) decodeModify(b []byte) (err error) {
	if r.dn, b, err = decodeString(b, maxDN); err != nil {
		return err
	}
	list, _, err := ber.Expect(b, ber.TagSequence)
	if err != nil {
		return err
	}
	total := 0
	for len(list) > 0 {
		var body []byte
		if body, list, err = ber.Expect(list, ber.TagSequence); err != nil {
			return err
		}
		var c change
		if c.kind, body, err = ber.ExpectInt(body, ber.TagEnumerated); err != nil {
			return err
		}
		if body, _, err = ber.Expect(body, ber.TagSequence); err != nil {
			return err
		}
		if c.attribute, err = decodeAttribute(body, &total); err != nil {
			return err
		}
		if c.kind < 0 || c.kind > 3 {
			return ber.ErrSyntax
		}
		if len(r.changes) == maxAttributes {
			return errLimit
		}
		r.changes = append(r.changes, c)
	}
	return nil
}

func (r *request) decodeModifyDN(b []byte) (err error) {
	if r.dn, b, err = decodeString(b, maxDN); err != nil {
		return err
	}
	if r.newRDN, b, err = decodeString(b, maxDN); err != nil {
		return err
	}
	if r.deleteOld, b, err = ber.ExpectBool(b); err != nil {
		return err
	}
	if len(b) > 0 {
		superior, _, err := ber.Expect(b, 0x80)
		if err != nil || len(superior) > maxDN {
			return ber.ErrSyntax
		}
		r.newSuperior, r.hasSuperior = string(superior), true
	}
	return nil
}

func (r *request) decodeCompare(b []byte) (err error) {
	if r.dn, b, err = decodeString(b, maxDN); err != nil {
		return err
	}
	if b, _, err = ber.Expect(b, ber.TagSequence); err != nil {
		return err
	}
	if r.attr, b, err = decodeString(b, maxName); err != nil {
		return err
	}
	r.value, _, err = decodeString(b, 1<<20)
	return err
}

// validName reports whether s is an attribute description (RFC 4512 2.5):
// letters, digits, hyphens, dots, and semicolons before options.
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != ';' && c != '_' {
			return false
		}
	}
	return true
}

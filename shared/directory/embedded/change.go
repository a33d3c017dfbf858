package embedded

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// modified returns the object that results from changes to o.
func (t *tree) modified(o *object, changes []change, internal bool) (*object, error) {
	m := &object{dn: o.dn, attrs: slices.Clone(o.attrs)}
	for _, c := range changes {
		oper := isOperational(c.lower)
		if oper && !internal {
			return nil, result(codeConstraint, c.name+": no user modification allowed")
		}
		if err := m.apply(c, oper); err != nil {
			return nil, err
		}
	}
	for _, part := range rdnParts(o.dn) {
		a := m.find(strings.ToLower(part[0]))
		if a == nil || indexOf(*a, part[1]) < 0 {
			return nil, result(codeNotAllowedOnRDN, part[0]+": value is part of the name")
		}
	}
	if m.find("objectclass") == nil && o.find("objectclass") != nil {
		return nil, result(codeConstraint, "objectClass cannot be removed")
	}
	return m, nil
}

func (o *object) apply(c change, oper bool) error {
	at := slices.IndexFunc(o.attrs, func(a attribute) bool { return a.lower == c.lower })
	switch c.kind {
	case 0: // add
		if len(c.values) == 0 {
			return result(codeProtocolError, c.name+": no values")
		}
		if at < 0 {
			o.attrs = append(o.attrs, attribute{c.name, c.lower, c.values, oper})
			at = len(o.attrs) - 1
		} else {
			o.attrs[at].values = append(slices.Clip(o.attrs[at].values), c.values...)
		}
		if v, twice := repeated(o.attrs[at]); twice {
			return result(codeAttributeExists, c.name+": value exists: "+v)
		}
		return nil
	case 1: // delete
		if at < 0 {
			return result(codeNoSuchAttribute, c.name+": no such attribute")
		}
		return o.drop(at, c)
	case 2: // replace
		if v, twice := repeated(c.attribute); twice {
			return result(codeAttributeExists, c.name+": value given twice: "+v)
		}
		switch {
		case len(c.values) == 0 && at >= 0:
			o.attrs = slices.Delete(o.attrs, at, at+1)
		case len(c.values) == 0:
		case at >= 0:
			o.attrs[at].values = c.values
		default:
			o.attrs = append(o.attrs, attribute{c.name, c.lower, c.values, oper})
		}
		return nil
	}
	return o.increment(at, c)
}

// increment adds a number to every value (RFC 4525).
func (o *object) increment(at int, c change) error {
	if at < 0 {
		return result(codeNoSuchAttribute, c.name+": no such attribute")
	}
	if len(c.values) != 1 {
		return result(codeProtocolError, c.name+": an increment has one value")
	}
	by, err := strconv.ParseInt(c.values[0], 10, 64)
	if err != nil {
		return result(codeInvalidSyntax, c.name+": not a number")
	}
	values := make([]string, len(o.attrs[at].values))
	for i, v := range o.attrs[at].values {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || by > 0 && n > math.MaxInt64-by || by < 0 && n < math.MinInt64-by {
			return result(codeConstraint, c.name+": cannot be incremented")
		}
		values[i] = strconv.FormatInt(n+by, 10)
	}
	o.attrs[at].values = values
	return nil
}

func (o *object) drop(at int, c change) error {
	gone := make(map[string]struct{}, len(c.values))
	for _, v := range c.values {
		gone[normalValue(c.lower, v)] = struct{}{}
	}
	var left []string
	if len(gone) > 0 {
		for _, v := range o.attrs[at].values {
			n := normalValue(c.lower, v)
			if _, ok := gone[n]; ok {
				delete(gone, n)
			} else {
				left = append(left, v)
			}
		}
		if len(gone) > 0 {
			return result(codeNoSuchAttribute, c.name+": no such value")
		}
	}
	if len(left) == 0 {
		o.attrs = slices.Delete(o.attrs, at, at+1)
	} else {
		o.attrs[at].values = left
	}
	return nil
}

// renamed checks that n can get a new name, and returns its object under that
// name and the name's normal form.
func (t *tree) renamed(n *node, newRDN string, deleteOld bool, superior *node) (*object, string, error) {
	norm, err := normalDN(newRDN)
	if rdn, up := splitDN(norm); err != nil || rdn == "" || up != "" {
		return nil, "", result(codeInvalidDN, "invalid new RDN")
	}
	if superior.below(n) {
		return nil, "", result(codeUnwilling, "new superior is below the entry")
	}
	fullDN := newRDN
	if superior != nil {
		fullDN, norm = newRDN+","+superior.obj.dn, norm+","+superior.norm
	}
	if other := t.nodes[norm]; other != nil && other != n {
		return nil, "", result(codeEntryExists, "entry exists")
	}
	if t.size(n) > maxMoved {
		return nil, "", result(codeAdminLimit, "too many entries below")
	}
	o := &object{dn: fullDN, attrs: slices.Clone(n.obj.attrs)}
	parts := rdnParts(newRDN)
	o.addNaming(parts)
	if !deleteOld {
		return o, norm, nil
	}
	for _, part := range rdnParts(n.obj.dn) {
		lower := strings.ToLower(part[0])
		keep := slices.ContainsFunc(parts, func(p [2]string) bool {
			return strings.EqualFold(p[0], lower) && normalValue(lower, p[1]) == normalValue(lower, part[1])
		})
		if !keep {
			if err := o.apply(change{1, attribute{part[0], lower, []string{part[1]}, false}}, false); err != nil {
				return nil, "", err
			}
		}
	}
	return o, norm, nil
}

// rename puts n, as o, and all below it to the place that renamed found.
func (t *tree) rename(n *node, o *object, norm string, superior *node) {
	t.replace(n, o)
	n.attach(superior)
	t.rekey(n, norm)
}

// addNaming adds the values of a name's first part that are missing.
func (o *object) addNaming(parts [][2]string) {
	for _, part := range parts {
		lower := strings.ToLower(part[0])
		if a := o.find(lower); a == nil {
			o.attrs = append(o.attrs, attribute{name: part[0], lower: lower, values: []string{part[1]}})
		} else if indexOf(*a, part[1]) < 0 {
			a.values = append(slices.Clip(a.values), part[1])
		}
	}
}

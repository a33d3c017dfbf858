package embedded

import (
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// Filter choices (RFC 4511 4.5.1), context tags.
const (
	filterAnd        = 0xa0
	filterOr         = 0xa1
	filterNot        = 0xa2
	filterEqual      = 0xa3
	filterSubstrings = 0xa4
	filterGreater    = 0xa5
	filterLess       = 0xa6
	filterPresent    = 0x87
	filterApprox     = 0xa8
	filterExtensible = 0xa9
)

const (
	maxFilterDepth = 32
	maxFilterNodes = 2000
)

// filter is a decoded filter. value and the substrings are in the normal form
// of the attribute's matching rule.
type filter struct {
	kind     byte
	attr     string // lower case, without options unless given
	value    string
	raw      string // value as it was sent
	children []*filter

	initial, final string // substrings
	hasInitial     bool
	hasFinal       bool
	any            []string

	rule    string // extensible
	dnAttrs bool
}

// verdict is the three-valued logic of RFC 4511 4.5.1.7.
type verdict int8

const (
	no verdict = iota
	unknown
	yes
)

func truth(b bool) verdict {
	if b {
		return yes
	}
	return no
}

func decodeFilter(e ber.Element, depth int, budget *int) (*filter, error) {
	if *budget--; *budget < 0 || depth > maxFilterDepth {
		return nil, errLimit
	}
	f := &filter{kind: e.Tag}
	b := e.Body
	switch e.Tag {
	case filterAnd, filterOr, filterNot:
		for len(b) > 0 {
			child, rest, err := ber.Next(b)
			if err != nil {
				return nil, err
			}
			c, err := decodeFilter(child, depth+1, budget)
			if err != nil {
				return nil, err
			}
			f.children, b = append(f.children, c), rest
		}
		if e.Tag == filterNot && len(f.children) != 1 {
			return nil, ber.ErrSyntax
		}
		return f, nil
	case filterPresent:
		if len(b) > maxName {
			return nil, errLimit
		}
		f.attr = strings.ToLower(string(b))
		return f, nil
	case filterEqual, filterGreater, filterLess, filterApprox:
		attr, b, err := decodeString(b, maxName)
		if err != nil {
			return nil, err
		}
		value, _, err := decodeString(b, 1<<16)
		if err != nil {
			return nil, err
		}
		f.attr = strings.ToLower(attr)
		f.raw, f.value = value, normalValue(f.attr, value)
		return f, nil
	case filterSubstrings:
		return f, f.decodeSubstrings(b, budget)
	case filterExtensible:
		return f, f.decodeExtensible(b)
	}
	return nil, ber.ErrSyntax
}

func (f *filter) decodeSubstrings(b []byte, budget *int) error {
	attr, b, err := decodeString(b, maxName)
	if err != nil {
		return err
	}
	f.attr = strings.ToLower(attr)
	list, _, err := ber.Expect(b, ber.TagSequence)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		var e ber.Element
		if e, list, err = ber.Next(list); err != nil {
			return err
		}
		if *budget--; *budget < 0 {
			return errLimit
		}
		v := string(e.Body)
		if syntaxOf(f.attr) != syntaxOctets {
			v = strings.ToLower(v)
		}
		switch e.Tag {
		case 0x80:
			f.initial, f.hasInitial = v, true
		case 0x81:
			f.any = append(f.any, v)
		case 0x82:
			f.final, f.hasFinal = v, true
		default:
			return ber.ErrSyntax
		}
	}
	if !f.hasInitial && !f.hasFinal && len(f.any) == 0 {
		return ber.ErrSyntax
	}
	return nil
}

func (f *filter) decodeExtensible(b []byte) error {
	var value string
	for len(b) > 0 {
		var (
			e   ber.Element
			err error
		)
		if e, b, err = ber.Next(b); err != nil {
			return err
		}
		switch e.Tag {
		case 0x81:
			f.rule = string(e.Body)
		case 0x82:
			f.attr = strings.ToLower(string(e.Body))
		case 0x83:
			value = string(e.Body)
		case 0x84:
			f.dnAttrs = len(e.Body) == 1 && e.Body[0] != 0
		default:
			return ber.ErrSyntax
		}
	}
	f.value = value
	return nil
}

// match evaluates f for e. Attributes that see may not search are as though
// absent.
func (f *filter) match(e *object, see *view) verdict {
	switch f.kind {
	case filterAnd:
		v := yes
		for _, c := range f.children {
			if v = min(v, c.match(e, see)); v == no {
				break
			}
		}
		return v
	case filterOr:
		v := no
		for _, c := range f.children {
			if v = max(v, c.match(e, see)); v == yes {
				break
			}
		}
		return v
	case filterNot:
		return yes - f.children[0].match(e, see)
	case filterExtensible:
		return f.extensible(e, see)
	}
	if !see.may(f.attr, Search) {
		return unknown
	}
	if f.attr == "entrydn" { // not stored: it is the name (RFC 5020)
		return truth(f.kind == filterPresent || f.value1(f.attr, e.dn))
	}
	if f.kind == filterPresent {
		return truth(f.attr == "objectclass" || e.has(f.attr))
	}
	for i := range e.attrs {
		a := &e.attrs[i]
		if !describes(f.attr, a.lower) {
			continue
		}
		// Most names that are equal are spelled alike, and a group of thousands
		// is expensive to normalise.
		if f.kind == filterEqual && syntaxOf(a.lower) == syntaxDN && slices.Contains(a.values, f.raw) {
			return yes
		}
		for _, v := range a.values {
			if f.value1(a.lower, v) {
				return yes
			}
		}
	}
	return no
}

// value1 tests one value.
func (f *filter) value1(attr, raw string) bool {
	v := normalValue(attr, raw)
	switch f.kind {
	case filterEqual:
		return v == f.value
	case filterApprox:
		return strings.ReplaceAll(v, " ", "") == strings.ReplaceAll(f.value, " ", "")
	case filterGreater:
		return ordered(v, f.value) >= 0
	case filterLess:
		return ordered(v, f.value) <= 0
	}
	if f.hasInitial {
		if !strings.HasPrefix(v, f.initial) {
			return false
		}
		v = v[len(f.initial):]
	}
	for _, part := range f.any {
		i := strings.Index(v, part)
		if i < 0 {
			return false
		}
		v = v[i+len(part):]
	}
	return !f.hasFinal || strings.HasSuffix(v, f.final)
}

// ordered compares numbers as numbers, everything else as strings. Values of
// generalizedTime in the same form compare rightly as strings.
func ordered(a, b string) int {
	x, errX := strconv.ParseInt(a, 10, 64)
	y, errY := strconv.ParseInt(b, 10, 64)
	if errX != nil || errY != nil {
		return strings.Compare(a, b)
	}
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// extensible evaluates an extensibleMatch for the rules that there are.
func (f *filter) extensible(e *object, see *view) verdict {
	normal := func(attr, v string) string { return normalValue(attr, v) }
	switch strings.ToLower(f.rule) {
	case "":
		if f.attr == "" {
			return unknown
		}
	case "caseignorematch", "2.5.13.2", "caseignoreia5match", "1.3.6.1.4.1.1466.109.114.2":
		normal = func(_, v string) string { return foldSpaces(v) }
	case "caseexactmatch", "2.5.13.5", "caseexactia5match", "1.3.6.1.4.1.1466.109.114.1", "octetstringmatch", "2.5.13.17":
		normal = func(_, v string) string { return v }
	case "distinguishednamematch", "2.5.13.1":
		normal = func(_, v string) string { return normalDNOrFold(v) }
	default:
		return unknown
	}
	test := func(attr, v string) bool {
		return (f.attr == "" || describes(f.attr, attr)) && normal(attr, v) == normal(attr, f.value)
	}
	for i := range e.attrs {
		a := &e.attrs[i]
		if !see.may(a.lower, Search) {
			continue
		}
		for _, v := range a.values {
			if test(a.lower, v) {
				return yes
			}
		}
	}
	if f.dnAttrs {
		for _, part := range dnParts(e.dn) {
			if test(part[0], part[1]) {
				return yes
			}
		}
	}
	return no
}

// describes reports whether the attribute description have is want or a
// subtype of it by options ("cn" describes "cn;lang-fr").
func describes(want, have string) bool {
	return want == have || len(have) > len(want) && have[len(want)] == ';' && have[:len(want)] == want
}

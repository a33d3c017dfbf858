package message

import (
	"sort"
	"strconv"
	"strings"
)

// readType reads a Content-Type. A type without subtype, or none, is left as
// text/plain (RFC 2045 5.2). A missing semicolon behind the subtype is
// forgiven, or a whole multipart could not be seen.
func (e *entity) readType(s string) {
	sc := scanner{s: s}
	var w piece
	if sc.cfws() != more || sc.token(&w) != more || !sc.at('/') {
		return
	}
	mainType := w.string(s)
	sc.i++
	w.reset()
	if sc.cfws() != more {
		return
	}
	st := sc.token(&w)
	e.part.Type, e.part.Subtype = upper(mainType), upper(w.string(s))
	if st == more {
		e.part.Params = sc.params(sc.s[sc.i] != ';')
	}
	if e.part.Type == "MULTIPART" {
		for _, param := range e.part.Params {
			if equalFold(param.Name, "boundary") {
				e.boundary, e.hasBoundary = param.Value[:min(len(param.Value), maxBoundary)], true
				break
			}
		}
	}
}

var upperWords = [...]string{
	"TEXT", "PLAIN", "HTML", "MULTIPART", "ALTERNATIVE", "MIXED", "RELATED", "APPLICATION", "OCTET-STREAM",
	"IMAGE", "JPEG", "PNG", "GIF", "MESSAGE", "RFC822", "7BIT", "8BIT", "QUOTED-PRINTABLE", "BASE64",
}

// upper is s in upper case, without allocating for the usual words.
func upper(s string) string {
	for _, w := range upperWords {
		if equalFold(s, w) {
			return w
		}
	}
	return strings.ToUpper(s)
}

// readEncoding reads a Content-Transfer-Encoding, which is one token.
func (part *Part) readEncoding(s string) {
	sc := scanner{s: s}
	var w piece
	if sc.cfws() == more && sc.token(&w) == atEnd && w.len() > 0 {
		part.Encoding = upper(w.string(s))
	}
}

// readDisposition reads a Content-Disposition (RFC 2183 2).
func (part *Part) readDisposition(s string) {
	sc := scanner{s: s}
	var w piece
	if sc.cfws() == broken {
		return
	}
	st := sc.token(&w)
	if st == broken {
		return
	}
	part.Disposition = w.string(s)
	if st == more {
		part.DispParams = sc.params(false)
	}
}

// readLanguage reads a Content-Language, a list of tags (RFC 3282 2).
func (part *Part) readLanguage(s string) {
	sc := scanner{s: s}
	sc.cfws()
	for len(part.Language) < MaxParams {
		var w piece
		if sc.atom(&w) == broken {
			return
		}
		part.Language = append(part.Language, w.string(s))
		if !sc.at(',') {
			return
		}
		sc.i++
		sc.cfws()
	}
}

// section is a parameter, or a piece of one, whose name has an asterisk: name
// *number, name*, or name*number* (RFC 2231 3 and 4).
type section struct {
	name, value string
	number      int
	extended    bool
}

// params reads *(";" name "=" value), the first semicolon being there already
// if begun is set. Pieces of one value are joined and put behind the ordinary
// parameters.
func (sc *scanner) params(begun bool) []Param {
	var (
		list     []Param
		sections []section
	)
	for sc.i < len(sc.s) && len(list)+len(sections) < MaxParams {
		name, value, ok := sc.param(begun)
		begun = false
		if !ok {
			for sc.i < len(sc.s) && sc.s[sc.i] != ';' {
				sc.i++
			}
			continue
		}
		if sec, ok := parseSection(name); ok {
			sec.value = value
			sections = append(sections, sec)
			continue
		}
		if list == nil {
			list = make([]Param, 0, 2)
		}
		list = append(list, Param{Name: name, Value: value})
	}
	if len(sections) > 0 {
		list = joinSections(list, sections)
	}
	return list
}

// param reads one parameter with the semicolon before it, unless that is read
// already.
func (sc *scanner) param(begun bool) (name, value string, ok bool) {
	if !begun {
		if sc.s[sc.i] != ';' {
			return "", "", false
		}
		sc.i++
	}
	var w piece
	if sc.cfws() != more || sc.token(&w) != more || !sc.at('=') {
		return "", "", false
	}
	name = w.string(sc.s)
	sc.i++
	w.reset()
	st := sc.cfws()
	switch {
	case st != more:
	case sc.s[sc.i] == '"':
		st = sc.quoted(&w)
	case sc.s[sc.i] == '=': // name==?utf-8?b?...?=
		start := sc.i
		for sc.i < len(sc.s) && sc.s[sc.i] != ';' && !isWSP(sc.s[sc.i]) {
			sc.i++
		}
		w.add(sc.s, start, sc.i)
	default:
		st = sc.token(&w)
	}
	if st == broken {
		return "", "", false
	}
	return name, w.string(sc.s), true
}

// parseSection takes a name with an asterisk apart.
func parseSection(name string) (sec section, ok bool) {
	star := strings.IndexByte(name, '*')
	if star < 0 {
		return sec, false
	}
	sec.name = name[:star]
	rest := name[star+1:]
	digits := 0
	for digits < len(rest) && digits < 4 && '0' <= rest[digits] && rest[digits] <= '9' {
		digits++
	}
	sec.number, _ = strconv.Atoi("0" + rest[:digits])
	switch {
	case rest == "": // name*
		sec.extended = true
	case rest[digits:] == "":
	case rest[digits:] == "*":
		sec.extended = true
	default:
		return section{}, false
	}
	return sec, true
}

// joinSections appends to list the parameters that sections make up, by name.
func joinSections(list []Param, sections []section) []Param {
	sort.SliceStable(sections, func(i, j int) bool {
		a, b := &sections[i], &sections[j]
		if a.name != b.name {
			return a.name < b.name
		}
		return a.number < b.number
	})
	for len(sections) > 0 {
		n, complete, extended := 0, true, false
		for n < len(sections) && equalFold(sections[n].name, sections[0].name) {
			complete = complete && sections[n].number == n
			extended = extended || sections[n].extended
			n++
		}
		if complete {
			list = append(list, joinSection(sections[:n], extended))
		} else { // not RFC 2231: show what is there
			for _, sec := range sections[:n] {
				name := sec.name + "*" + strconv.Itoa(sec.number)
				if sec.extended {
					name += "*"
				}
				list = append(list, Param{Name: name, Value: sec.value})
			}
		}
		sections = sections[n:]
	}
	return list
}

// joinSection joins the pieces of one value.
func joinSection(sections []section, extended bool) Param {
	param := Param{Name: sections[0].name}
	var b strings.Builder
	if extended && !sections[0].extended {
		b.WriteString("''")
	}
	for _, sec := range sections {
		if extended && !sec.extended {
			b.WriteString(strings.ReplaceAll(sec.value, "%", "%25"))
		} else {
			b.WriteString(sec.value)
		}
	}
	if !extended {
		param.Value = b.String()
		return param
	}
	param.Extended = b.String()
	param.Value = decodeExtended(param.Extended)
	if param.Extended == "" {
		param.Extended = "''"
	}
	return param
}

// decodeExtended is the octets of charset'language'octets (RFC 2231 4).
func decodeExtended(s string) string {
	if _, rest, ok := strings.Cut(s, "'"); ok {
		if _, rest, ok = strings.Cut(rest, "'"); ok {
			s = rest
		}
	}
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi|lo < 16 {
				out = append(out, hi<<4|lo)
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// unhex is the value of a hexadecimal digit, 255 for another octet.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

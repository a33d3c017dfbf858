package message

import "bytes"

// The fields that a Part describes.
const (
	fieldDate = iota
	fieldSubject
	fieldFrom
	fieldSender
	fieldReplyTo
	fieldTo
	fieldCc
	fieldBcc
	fieldInReplyTo
	fieldMessageID
	fieldMIMEVersion // the ones before are those of an envelope
	fieldType
	fieldEncoding
	fieldID
	fieldDescription
	fieldMD5
	fieldDisposition
	fieldLanguage
	fieldLocation
	fieldCount
	fieldOther = -1
)

var contentFields = [...]struct {
	name  string
	field int
}{
	{"type", fieldType},
	{"transfer-encoding", fieldEncoding},
	{"id", fieldID},
	{"description", fieldDescription},
	{"md5", fieldMD5},
	{"disposition", fieldDisposition},
	{"language", fieldLanguage},
	{"location", fieldLocation},
}

// values are the fields found in a header block: where in parser.scratch they
// are.
type values [fieldCount]value

type value struct {
	lo, hi int32
	found  bool
}

// repeated is a further field of a name.
type repeated struct {
	field int
	value
}

// readHeader reads the header block at pos, that of the innermost open part,
// and describes the part. It returns where the body begins and the delimiter
// line that cut the block short, if one did.
func (p *parser) readHeader(pos int) (body int, d delimiter, found bool) {
	var (
		v        values
		top      = &p.open[len(p.open)-1]
		part     = top.part
		limit    = min(len(p.b), pos+MaxHeader)
		field    = fieldOther // the one being read,
		from, at = 0, pos     // from offset from on
		empty    bool         // an empty line ends the block
	)
	p.scratch, p.repeated = p.scratch[:0], p.repeated[:0]
	body = limit
lines:
	for at < limit {
		next, eol := lineEnd(p.b[:limit], at)
		switch c := p.b[at]; {
		case eol > 0 && next-at == eol:
			body, empty = next, true
			break lines
		case eol == 0 && limit < len(p.b):
			body = pos + headerCut(len(p.b)-pos, at-pos, limit-pos)
			break lines
		case isWSP(c) && at > pos:
		case c == '-' && p.waiting > 0:
			if d, found = p.delimiterAt(at); found {
				body = p.beforeEOL(pos, at)
				d.end = body
				break lines
			}
			fallthrough
		default:
			p.addValue(&v, field, from, at)
			field, from = fieldAt(p.b[at:next], part.Envelope != nil)
			from += at
		}
		at = next
	}
	p.addValue(&v, field, from, min(at, body))
	p.describe(top, &v)
	if empty && p.waiting > 0 {
		// A delimiter right behind the empty line has it as its line end,
		// unless it is the first one of this part.
		if d, found = p.delimiterBehindHeader(body); found {
			body, d.end = at, at
		}
	}
	part.Header.Len = int64(body - pos)
	part.Body.Off = int64(body)
	top.lines = p.linesBefore(body)
	return body, d, found
}

// delimiterBehindHeader looks for a delimiter of an outer part at at, where the
// body of the innermost one begins.
func (p *parser) delimiterBehindHeader(at int) (d delimiter, found bool) {
	top := &p.open[len(p.open)-1]
	top.waiting = top.hasBoundary
	d, found = p.delimiterAt(at)
	top.waiting = false
	return d, found && d.level < len(p.open)-1
}

// fieldAt tells which field a line begins, and where in it the value does.
func fieldAt(line []byte, envelope bool) (field, value int) {
	try := func(name string, f int) bool {
		if len(line) <= len(name) || !equalFold(line[:len(name)], name) {
			return false
		}
		i := len(name)
		for i < len(line) && isWSP(line[i]) {
			i++
		}
		if i == len(line) || line[i] != ':' {
			return false
		}
		field, value = f, i+1
		return true
	}
	c := line[0] | 0x20
	if c == 'c' {
		if len(line) > 8 && equalFold(line[:8], "content-") {
			line = line[8:]
			for _, cf := range contentFields {
				if lowerASCII(line[0]) == cf.name[0] && try(cf.name, cf.field) {
					return field, value + 8
				}
			}
			return fieldOther, 0
		}
	}
	if c == 'm' && try("mime-version", fieldMIMEVersion) {
		return field, value
	}
	if !envelope {
		return fieldOther, 0
	}
	var ok bool
	switch c {
	case 'b':
		ok = try("bcc", fieldBcc)
	case 'c':
		ok = try("cc", fieldCc)
	case 'd':
		ok = try("date", fieldDate)
	case 'f':
		ok = try("from", fieldFrom)
	case 'i':
		ok = try("in-reply-to", fieldInReplyTo)
	case 'm':
		ok = try("message-id", fieldMessageID)
	case 'r':
		ok = try("reply-to", fieldReplyTo)
	case 's':
		ok = try("subject", fieldSubject) || try("sender", fieldSender)
	case 't':
		ok = try("to", fieldTo)
	}
	if !ok {
		return fieldOther, 0
	}
	return field, value
}

// addValue notes the value of a field, which is b[from:to], unfolded. Of
// several fields of one name, all count that list addresses, the last of
// others in an envelope, and the first elsewhere.
func (p *parser) addValue(v *values, field, from, to int) {
	if field == fieldOther || field > fieldMIMEVersion && v[field].found {
		return
	}
	lo := len(p.scratch)
	p.scratch = appendValue(p.scratch, p.b[from:to])
	val := value{lo: int32(lo), hi: int32(len(p.scratch)), found: true}
	if v[field].found && fieldFrom <= field && field <= fieldBcc {
		p.repeated = append(p.repeated, repeated{field, val})
		return
	}
	v[field] = val
}

// appendValue appends body in one line, without the white space before it.
// NUL, which no client can be told, becomes U+FFFD.
func appendValue(dst, body []byte) []byte {
	lo := len(dst)
	for first := true; len(body) > 0; {
		next, eol := lineEnd(body, 0)
		line := body[:next-eol]
		body = body[next:]
		for first && len(line) > 0 && isWSP(line[0]) {
			line = line[1:]
		}
		first = false
		dst = append(dst, line...)
	}
	if bytes.IndexByte(dst[lo:], 0) >= 0 {
		clean := bytes.ReplaceAll(dst[lo:], []byte{0}, []byte("\uFFFD"))
		dst = append(dst[:lo], clean...)
	}
	return dst
}

// describe fills a part from the fields of its header block.
func (p *parser) describe(e *entity, v *values) {
	text := string(p.scratch)
	value := func(field int) string { return text[v[field].lo:v[field].hi] }
	part := e.part
	if part.Envelope != nil {
		p.fillEnvelope(part.Envelope, v, text)
	}
	part.Type, part.Subtype, part.Encoding = "TEXT", "PLAIN", "7BIT"
	parent := p.parent()
	inMultipart := parent != nil && parent.Type == "MULTIPART"
	isMIME := inMultipart || v[fieldMIMEVersion].found || v[fieldType].found
	switch {
	case isMIME && v[fieldType].found:
		e.readType(value(fieldType))
	case inMultipart && parent.Subtype == "DIGEST": // RFC 2046 5.1.5
		part.Type, part.Subtype = "MESSAGE", "RFC822"
	}
	if !isMIME { // RFC 2045 4: the other fields have a meaning in MIME only
		return
	}
	if v[fieldEncoding].found {
		part.readEncoding(value(fieldEncoding))
	}
	if v[fieldDisposition].found {
		part.readDisposition(value(fieldDisposition))
	}
	if v[fieldLanguage].found {
		part.readLanguage(value(fieldLanguage))
	}
	part.ID = value(fieldID)
	part.Description = value(fieldDescription)
	part.MD5 = value(fieldMD5)
	part.Location = value(fieldLocation)
}

// parent is the part that the innermost one is directly in, nil for the root.
func (p *parser) parent() *Part {
	if len(p.open) < 2 {
		return nil
	}
	return p.open[len(p.open)-2].part
}

func (p *parser) fillEnvelope(e *Envelope, v *values, text string) {
	str := func(field int) *string {
		if !v[field].found {
			return nil
		}
		return p.keep(text[v[field].lo:v[field].hi])
	}
	list := func(field int) []Address { return p.addresses(v, text, field) }
	e.Date, e.Subject = str(fieldDate), str(fieldSubject)
	if e.Subject != nil {
		*e.Subject = humanize(*e.Subject)
	}
	e.From, e.Sender, e.ReplyTo = list(fieldFrom), list(fieldSender), list(fieldReplyTo)
	e.To, e.Cc, e.Bcc = list(fieldTo), list(fieldCc), list(fieldBcc)
	e.InReplyTo, e.MessageID = str(fieldInReplyTo), str(fieldMessageID)
}

// humanize makes each run of white space one space and removes it at both
// ends, as is usual for text that a person reads.
func humanize(s string) string {
	space, ok := true, true
	for i := 0; i < len(s) && ok; i++ {
		switch s[i] {
		case ' ':
			ok = !space
			space = true
		case '\t', '\r', '\n':
			ok = false
		default:
			space = false
		}
	}
	if ok && (!space || s == "") {
		return s
	}
	out := make([]byte, 0, len(s))
	space = true
	for i := range len(s) {
		switch c := s[i]; c {
		case '\r', '\n':
		case ' ', '\t':
			if !space {
				out = append(out, ' ')
			}
			space = true
		default:
			out = append(out, c)
			space = false
		}
	}
	if space && len(out) > 0 {
		out = out[:len(out)-1]
	}
	return string(out)
}

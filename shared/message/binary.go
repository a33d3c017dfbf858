package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// partVersion is the first octet of an encoded Part. A change of the format
// takes another number, and DecodePart goes on reading this one.
const partVersion = 1

// ErrEncoding says that octets are not an encoded Part, or one of a later
// version.
var ErrEncoding = errors.New("not an encoded message part")

// What a part has beyond its spans, as bits of its first number.
const (
	hasType = 1 << iota
	hasEncoding
	hasParams
	hasID
	hasDescription
	hasMD5
	hasDisposition
	hasDispParams
	hasLanguage
	hasLocation
	hasChildren
	hasMessage
	hasEnvelope
	hasGap // between header and body
)

// Words written as one octet. Only ever append: the place is the code.
var (
	codedTypes = []string{
		"", "TEXT/PLAIN", "TEXT/HTML", "MULTIPART/ALTERNATIVE", "MULTIPART/MIXED", "MULTIPART/RELATED",
		"APPLICATION/OCTET-STREAM", "APPLICATION/PDF", "IMAGE/JPEG", "IMAGE/PNG", "IMAGE/GIF",
		"MESSAGE/RFC822", "MULTIPART/SIGNED", "MULTIPART/REPORT", "MESSAGE/DELIVERY-STATUS",
		"TEXT/CALENDAR", "APPLICATION/PKCS7-SIGNATURE", "APPLICATION/PGP-SIGNATURE",
	}
	codedEncodings = []string{"", "7BIT", "8BIT", "QUOTED-PRINTABLE", "BASE64", "BINARY"}
	codedNames     = []string{
		"", "charset", "boundary", "name", "filename", "format", "delsp", "type", "size",
		"protocol", "micalg", "report-type", "creation-date", "modification-date", "start",
	}
	codedValues = []string{"", "utf-8", "UTF-8", "us-ascii", "US-ASCII", "iso-8859-1", "ISO-8859-1", "flowed", "windows-1252"}
)

// AppendBinary appends p in a compact form that DecodePart reads.
func (p *Part) AppendBinary(dst []byte) []byte {
	return appendPart(append(dst, partVersion), p, 0)
}

// appendPart writes p, whose offset is counted from that of the part around it.
func appendPart(dst []byte, p *Part, origin int64) []byte {
	var has uint64
	set := func(bit uint64, cond bool) {
		if cond {
			has |= bit
		}
	}
	set(hasType, p.Type != "TEXT" || p.Subtype != "PLAIN")
	set(hasEncoding, p.Encoding != "7BIT")
	set(hasParams, len(p.Params) > 0)
	set(hasID, p.ID != "")
	set(hasDescription, p.Description != "")
	set(hasMD5, p.MD5 != "")
	set(hasDisposition, p.Disposition != "")
	set(hasDispParams, len(p.DispParams) > 0)
	set(hasLanguage, len(p.Language) > 0)
	set(hasLocation, p.Location != "")
	set(hasChildren, len(p.Children) > 0)
	set(hasMessage, p.Message != nil)
	set(hasEnvelope, p.Envelope != nil)
	set(hasGap, p.Body.Off != p.Header.End())
	dst = binary.AppendUvarint(dst, has)
	dst = appendInt(dst, p.Header.Off-origin)
	dst = appendInt(dst, p.Header.Len)
	dst = appendInt(dst, p.Body.Len)
	dst = appendInt(dst, p.Lines)
	if has&hasGap != 0 {
		dst = appendInt(dst, p.Body.Off-p.Header.End())
	}
	if has&hasType != 0 {
		dst = appendType(dst, p.Type, p.Subtype)
	}
	if has&hasEncoding != 0 {
		dst = appendWord(dst, codedEncodings, p.Encoding)
	}
	if has&hasParams != 0 {
		dst = appendParams(dst, p.Params)
	}
	for _, s := range [...]string{p.ID, p.Description, p.MD5, p.Disposition, p.Location} {
		if s != "" {
			dst = appendString(dst, s)
		}
	}
	if has&hasDispParams != 0 {
		dst = appendParams(dst, p.DispParams)
	}
	if has&hasLanguage != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(p.Language)))
		for _, tag := range p.Language {
			dst = appendString(dst, tag)
		}
	}
	if has&hasEnvelope != 0 {
		dst = appendEnvelope(dst, p.Envelope)
	}
	if has&hasMessage != 0 {
		dst = appendPart(dst, p.Message, p.Body.Off)
	}
	if has&hasChildren != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(p.Children)))
		origin = p.Body.Off
		for _, c := range p.Children {
			dst = appendPart(dst, c, origin)
			origin = c.Body.End()
		}
	}
	return dst
}

// appendInt writes n so that small ones take little, negative ones the most.
func appendInt(dst []byte, n int64) []byte { return binary.AppendUvarint(dst, uint64(n)) }

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// appendWord writes the code of s in words, or 0 and s.
func appendWord(dst []byte, words []string, s string) []byte {
	for i, w := range words {
		if i > 0 && w == s {
			return append(dst, byte(i))
		}
	}
	return appendString(append(dst, 0), s)
}

func appendType(dst []byte, mainType, subtype string) []byte {
	for i, w := range codedTypes {
		if i > 0 && len(w) == len(mainType)+1+len(subtype) && strings.HasPrefix(w, mainType) &&
			w[len(mainType)] == '/' && strings.HasSuffix(w, subtype) {
			return append(dst, byte(i))
		}
	}
	return appendString(appendString(append(dst, 0), mainType), subtype)
}

func appendParams(dst []byte, list []Param) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for i := range list {
		p := &list[i]
		if p.Extended == "" {
			dst = appendWord(append(dst, 0), codedNames, p.Name)
			dst = appendWord(dst, codedValues, p.Value)
		} else {
			dst = appendWord(append(dst, 1), codedNames, p.Name)
			dst = appendString(dst, p.Extended)
		}
	}
	return dst
}

// envelopeStrings and envelopeLists are the fields in the order of their bits.
func (e *Envelope) envelopeStrings() [4]**string {
	return [...]**string{&e.Date, &e.Subject, &e.InReplyTo, &e.MessageID}
}

func (e *Envelope) envelopeLists() [6]*[]Address {
	return [...]*[]Address{&e.From, &e.Sender, &e.ReplyTo, &e.To, &e.Cc, &e.Bcc}
}

func (a *Address) addressStrings() [4]**string {
	return [...]**string{&a.Name, &a.Route, &a.Mailbox, &a.Host}
}

func appendEnvelope(dst []byte, e *Envelope) []byte {
	var has uint64
	for i, s := range e.envelopeStrings() {
		if *s != nil {
			has |= 1 << i
		}
	}
	for i, list := range e.envelopeLists() {
		if len(*list) > 0 {
			has |= 1 << (4 + i)
		}
	}
	dst = binary.AppendUvarint(dst, has)
	dst = appendStrings(dst, e.envelopeStrings())
	for _, list := range e.envelopeLists() {
		if len(*list) == 0 {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(*list)))
		for i := range *list {
			a := &(*list)[i]
			var has byte
			for i, s := range a.addressStrings() {
				if *s != nil {
					has |= 1 << i
				}
			}
			dst = appendStrings(append(dst, has), a.addressStrings())
		}
	}
	return dst
}

func appendStrings(dst []byte, list [4]**string) []byte {
	for _, s := range list {
		if *s != nil {
			dst = appendString(dst, **s)
		}
	}
	return dst
}

// DecodePart reads what AppendBinary wrote. Its memory is bounded by a small
// multiple of the length of b, its depth by MaxDepth. The error is ErrEncoding.
func DecodePart(b []byte) (*Part, error) {
	if len(b) == 0 || b[0] != partVersion {
		return nil, fmt.Errorf("%w: version", ErrEncoding)
	}
	block := new(rootBlock)
	d := decoder{s: string(b[1:]), strings: block.strings[:0], list: block.list[:0]}
	root := &block.part
	d.part(root, 0, 1, &block.envelope)
	if d.failed || d.s != "" {
		return nil, ErrEncoding
	}
	return root, nil
}

// decoder reads from the front of s. After a failure it reads nothing.
type decoder struct {
	s       string
	failed  bool
	strings []string
	list    []Address
}

func (d *decoder) fail() {
	d.s, d.failed = "", true
}

func (d *decoder) octet() byte {
	if d.s == "" {
		d.fail()
		return 0
	}
	c := d.s[0]
	d.s = d.s[1:]
	return c
}

func (d *decoder) uint() uint64 {
	var n uint64
	for shift := 0; ; shift += 7 {
		c := d.octet()
		if shift == 63 && c > 1 {
			d.fail()
			return 0
		}
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return n
		}
	}
}

func (d *decoder) int() int64 { return int64(d.uint()) }

// count is a number of things of at least size octets each.
func (d *decoder) count(size int) int {
	n := d.uint()
	if n > uint64(len(d.s)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

// some is a count above 0: an empty list is left out.
func (d *decoder) some(size int) int {
	n := d.count(size)
	if n == 0 {
		d.fail()
	}
	return n
}

func (d *decoder) string() string {
	n := d.count(1)
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

func (d *decoder) word(words []string) string {
	c := int(d.octet())
	switch {
	case c == 0:
		return d.string()
	case c < len(words):
		return words[c]
	}
	d.fail()
	return ""
}

func (d *decoder) part(p *Part, origin int64, depth int, envelope *Envelope) {
	has := d.uint()
	if depth > MaxDepth || bits.Len64(has) > bits.Len64(hasGap) {
		d.fail()
		return
	}
	p.Header.Off = origin + d.int()
	p.Header.Len = d.int()
	p.Body.Len = d.int()
	p.Lines = d.int()
	p.Body.Off = p.Header.End()
	if has&hasGap != 0 {
		p.Body.Off += d.int()
	}
	p.Type, p.Subtype, p.Encoding = "TEXT", "PLAIN", "7BIT"
	if has&hasType != 0 {
		d.partType(p)
	}
	if has&hasEncoding != 0 {
		p.Encoding = d.word(codedEncodings)
	}
	if has&hasParams != 0 {
		p.Params = d.params()
	}
	for _, f := range [...]struct {
		bit uint64
		s   *string
	}{
		{hasID, &p.ID},
		{hasDescription, &p.Description},
		{hasMD5, &p.MD5},
		{hasDisposition, &p.Disposition},
		{hasLocation, &p.Location},
	} {
		if has&f.bit != 0 {
			*f.s = d.string()
		}
	}
	if has&hasDispParams != 0 {
		p.DispParams = d.params()
	}
	if has&hasLanguage != 0 {
		p.Language = make([]string, d.some(1))
		for i := range p.Language {
			p.Language[i] = d.string()
		}
	}
	if has&hasEnvelope != 0 {
		if envelope == nil {
			envelope = new(Envelope)
		}
		p.Envelope = envelope
		d.envelope(envelope)
	}
	if has&hasMessage != 0 && !d.failed {
		p.Message = new(Part)
		d.part(p.Message, p.Body.Off, depth+1, nil)
	}
	if has&hasChildren != 0 {
		d.children(p, depth)
	}
}

// minPart is the least length of an encoded part: five numbers.
const minPart = 5

func (d *decoder) children(p *Part, depth int) {
	n := d.some(minPart)
	parts := make([]Part, n)
	p.Children = make([]*Part, n)
	origin := p.Body.Off
	for i := range parts {
		c := &parts[i]
		p.Children[i] = c
		d.part(c, origin, depth+1, nil)
		origin = c.Body.End()
	}
}

func (d *decoder) partType(p *Part) {
	switch c := int(d.octet()); {
	case c == 0:
		p.Type = d.string()
		p.Subtype = d.string()
	case c < len(codedTypes):
		p.Type, p.Subtype, _ = strings.Cut(codedTypes[c], "/")
	default:
		d.fail()
	}
}

func (d *decoder) params() []Param {
	list := make([]Param, d.some(3))
	for i := range list {
		p := &list[i]
		extended := d.octet()
		p.Name = d.word(codedNames)
		switch extended {
		case 0:
			p.Value = d.word(codedValues)
		case 1:
			p.Extended = d.string()
			p.Value = decodeExtended(p.Extended)
		default:
			d.fail()
		}
	}
	return list
}

func (d *decoder) envelope(e *Envelope) {
	has := d.uint()
	if has >= 1<<10 {
		d.fail()
		return
	}
	d.someStrings(has, e.envelopeStrings())
	for i, list := range e.envelopeLists() {
		if has&(1<<(4+i)) == 0 {
			continue
		}
		n := d.some(1)
		start := len(d.list)
		if cap(d.list)-start < n {
			d.list, start = make([]Address, 0, max(n, 8)), 0
		}
		d.list = d.list[:start+n]
		*list = d.list[start : start+n : start+n]
		for i := range *list {
			d.someStrings(uint64(d.octet()), (*list)[i].addressStrings())
		}
	}
}

// someStrings reads those strings of list whose bits are set.
func (d *decoder) someStrings(has uint64, list [4]**string) {
	for i, s := range list {
		if has&(1<<i) == 0 {
			continue
		}
		if len(d.strings) == cap(d.strings) {
			d.strings = make([]string, 0, 32)
		}
		d.strings = append(d.strings, d.string())
		*s = &d.strings[len(d.strings)-1]
	}
}

package imapd

import (
	"strconv"

	"github.com/postern-mail/postern/shared/imapwire"
)

// Items of FETCH that are not sections, as bits.
const (
	itemUID = 1 << iota
	itemFlags
	itemModSeq
	itemInternalDate
	itemSize
	itemSaveDate
	itemEmailID
	itemThreadID
	itemEnvelope
	itemBody
	itemBodyStructure

	// needPart is the items that need the structure of the message.
	needPart = itemEnvelope | itemBody | itemBodyStructure
)

// fetchItems is what a FETCH asks for of each message.
type fetchItems struct {
	bits     uint32
	sections []section
	seen     bool // sets \Seen
}

// Limits of one FETCH.
const (
	maxSections   = 200
	maxFieldNames = 500 // of one section
)

// sectionText says which octets of a part a section is.
type sectionText int

const (
	textAll       sectionText = iota // the part, or the message
	textHeader                       // HEADER
	textFields                       // HEADER.FIELDS
	textFieldsNot                    // HEADER.FIELDS.NOT
	textText                         // TEXT
	textMIME                         // MIME
)

// sectionKind says how a section is sent.
type sectionKind int

const (
	kindBody   sectionKind = iota // octets as they are
	kindBinary                    // decoded
	kindSize                      // the number of decoded octets
)

// section is BODY[...], BINARY[...], BINARY.SIZE[...] or one of the RFC822
// items.
type section struct {
	kind    sectionKind
	path    []int
	text    sectionText
	names   []string
	partial bool
	off, n  int64
	label   []byte // its name in the response
}

// readItems takes the items of a FETCH.
func readItems(p *imapwire.Parser, items *fetchItems) {
	if p.Peek() == '(' {
		p.List(func() { readItem(p, items) })
		if items.bits == 0 && len(items.sections) == 0 {
			p.Fail("items expected")
		}
		return
	}
	switch {
	case p.HasWord("ALL"):
		items.bits |= itemFlags | itemInternalDate | itemSize | itemEnvelope
	case p.HasWord("FAST"):
		items.bits |= itemFlags | itemInternalDate | itemSize
	case p.HasWord("FULL"):
		items.bits |= itemFlags | itemInternalDate | itemSize | itemEnvelope | itemBody
	default:
		readItem(p, items)
	}
}

// plainItems are the items that are one word.
var plainItems = map[string]uint32{
	"UID": itemUID, "FLAGS": itemFlags, "MODSEQ": itemModSeq, "INTERNALDATE": itemInternalDate,
	"RFC822.SIZE": itemSize, "SAVEDATE": itemSaveDate, "EMAILID": itemEmailID, "THREADID": itemThreadID,
	"ENVELOPE": itemEnvelope, "BODYSTRUCTURE": itemBodyStructure,
}

// upperWord takes a keyword, in upper case.
func upperWord(p *imapwire.Parser) string {
	b := p.Word()
	var room [32]byte
	if len(b) > len(room) {
		return ""
	}
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		room[i] = c
	}
	return string(room[:len(b)])
}

func readItem(p *imapwire.Parser, items *fetchItems) {
	word := upperWord(p)
	if bit := plainItems[word]; bit != 0 {
		items.bits |= bit
		return
	}
	sec := section{label: []byte(word)}
	peek := false
	switch word {
	case "RFC822":
	case "RFC822.HEADER":
		sec.text, peek = textHeader, true
	case "RFC822.TEXT":
		sec.text = textText
	case "BODY", "BODY.PEEK":
		if word == "BODY" && p.Peek() != '[' {
			items.bits |= itemBody
			return
		}
		sec.label, peek = []byte("BODY"), word != "BODY"
		readSection(p, &sec)
	case "BINARY", "BINARY.PEEK":
		sec.kind, sec.label, peek = kindBinary, []byte("BINARY"), word != "BINARY"
		readSection(p, &sec)
	case "BINARY.SIZE":
		sec.kind, peek = kindSize, true
		readSection(p, &sec)
	default:
		p.Fail("unknown item of FETCH")
		return
	}
	if len(items.sections) >= maxSections {
		p.Fail("too many sections")
		return
	}
	items.sections = append(items.sections, sec)
	items.seen = items.seen || !peek
}

// readSection takes "[...]" and "<off.n>", and completes the label.
func readSection(p *imapwire.Parser, sec *section) {
	p.Expect('[')
	sec.label = append(sec.label, '[')
	for c := p.Peek(); c >= '1' && c <= '9'; c = p.Peek() {
		if len(sec.path) >= imapwire.MaxDepth*2 {
			p.Fail("section too deep")
			return
		}
		n := p.NZNumber()
		sec.path = append(sec.path, int(min(n, 1<<30)))
		sec.label = imapwire.AppendNumber(sec.label, n)
		if p.Peek() != '.' {
			break
		}
		p.Has('.')
		sec.label = append(sec.label, '.')
		if c := p.Peek(); c < '1' || c > '9' {
			if sec.kind != kindBody || c == ']' {
				p.Fail("part number expected")
				return
			}
			readSectionText(p, sec)
			readSectionEnd(p, sec)
			return
		}
	}
	if len(sec.path) == 0 && p.Peek() != ']' && sec.kind == kindBody {
		readSectionText(p, sec)
	}
	readSectionEnd(p, sec)
}

func readSectionText(p *imapwire.Parser, sec *section) {
	word := upperWord(p)
	sec.label = append(sec.label, word...)
	switch {
	case word == "HEADER":
		sec.text = textHeader
	case word == "TEXT":
		sec.text = textText
	case word == "MIME" && len(sec.path) > 0:
		sec.text = textMIME
	case word == "HEADER.FIELDS", word == "HEADER.FIELDS.NOT":
		sec.text = textFields
		if word == "HEADER.FIELDS.NOT" {
			sec.text = textFieldsNot
		}
		p.SP()
		sec.label = append(sec.label, " ("...)
		p.List(func() {
			name := p.AString()
			for _, c := range name {
				if c <= ' ' || c >= 0x7f || c == ':' {
					p.Fail("not the name of a field")
				}
			}
			if len(sec.names) >= maxFieldNames {
				p.Fail("too many names of fields")
			}
			if len(sec.names) > 0 {
				sec.label = append(sec.label, ' ')
			}
			sec.names = append(sec.names, string(name))
			sec.label = imapwire.AppendAString(sec.label, name, false)
		})
		if len(sec.names) == 0 {
			p.Fail("names of fields expected")
		}
		sec.label = append(sec.label, ')')
	default:
		p.Fail("unknown section")
	}
}

func readSectionEnd(p *imapwire.Parser, sec *section) {
	p.Expect(']')
	sec.label = append(sec.label, ']')
	if sec.kind == kindSize || !p.Has('<') {
		return
	}
	sec.partial = true
	sec.off = p.Number64()
	p.Expect('.')
	if sec.n = p.Number64(); sec.n == 0 {
		p.Fail("number greater than zero expected")
	}
	p.Expect('>')
	sec.label = append(sec.label, '<')
	sec.label = strconv.AppendInt(sec.label, sec.off, 10)
	sec.label = append(sec.label, '>')
}

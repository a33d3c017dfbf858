package message

import (
	"bytes"
	"sync"
)

// maxBoundary is how many octets of a boundary are compared. RFC 2046 5.1.1
// allows 70.
const maxBoundary = 80

// maxKept bounds what a pooled parser keeps of its buffers.
const maxKept = 64 << 10

var parsers = sync.Pool{New: func() any {
	return &parser{open: make([]entity, 0, 8), scratch: make([]byte, 0, 2048)}
}}

// Parse describes the message b. It never fails, and keeps no reference to b.
func Parse(b []byte) *Part {
	block := new(rootBlock)
	block.part.Envelope = &block.envelope
	p := parsers.Get().(*parser)
	p.b, p.strings, p.list = b, block.strings[:0], block.list[:0]
	p.parse(&block.part)
	p.release()
	return &block.part
}

// release gives p back to the pool, without what belongs to the message.
func (p *parser) release() {
	clear(p.open[:cap(p.open)])
	*p = parser{open: p.open[:0], scratch: p.scratch[:0], repeated: p.repeated[:0]}
	if cap(p.scratch) <= maxKept && cap(p.repeated) <= maxKept/16 {
		parsers.Put(p)
	}
}

// rootBlock holds in one allocation what most messages need.
type rootBlock struct {
	part     Part
	envelope Envelope
	strings  [20]string
	list     [6]Address
}

// parser walks a message from its first octet to its last.
type parser struct {
	b             []byte
	open          []entity // the entities that the current offset is in, root first
	waiting       int      // how many of them wait for a delimiter
	parts         int
	addressesLeft int

	counted int   // offset up to which line ends are counted
	lines   int64 // line ends before counted

	scratch  []byte     // values of the header being read, unfolded
	repeated []repeated // further ones of the same names
	strings  []string   // storage behind the pointers of an envelope
	list     []Address  // storage behind its lists
}

// entity is a part whose end has not been seen.
type entity struct {
	part     *Part
	boundary string
	lines    int64 // line ends before the body

	hasBoundary bool
	waiting     bool // for a delimiter line with boundary
}

// delimiter is a delimiter line of RFC 2046 5.1.1.
type delimiter struct {
	level   int // of the multipart in parser.open
	end     int // of the body before it
	next    int // behind the line
	closing bool
	cut     bool // the line has no end: nothing follows
}

// keep returns a pointer to s.
func (p *parser) keep(s string) *string {
	if len(p.strings) == cap(p.strings) {
		p.strings = make([]string, 0, 32)
	}
	p.strings = append(p.strings, s)
	return &p.strings[len(p.strings)-1]
}

func (p *parser) parse(root *Part) {
	p.parts, p.addressesLeft = 1, MaxAddresses
	p.push(root, 0)
	pos := 0
	for {
		next, d, found := p.readHeader(pos)
		if p.enter(next, found) {
			pos = next
			continue
		}
		if !found {
			d, found = p.nextDelimiter(next)
		}
		for found && d.closing {
			p.closeAbove(d.level, d.end)
			p.open[d.level].waiting = false
			p.waiting--
			d, found = p.nextDelimiter(d.next)
		}
		if !found {
			break
		}
		p.closeAbove(d.level, d.end)
		if d.cut {
			break
		}
		parent, child := p.open[d.level].part, new(Part)
		if len(parent.Children) > 0 {
			p.parts++ // room for the first one was taken with the multipart
		}
		parent.Children = append(parent.Children, child)
		p.push(child, d.next)
		pos = d.next
	}
	p.closeAbove(-1, len(p.b))
}

// push makes part, whose header begins at off, the innermost open one.
func (p *parser) push(part *Part, off int) {
	part.Header.Off = int64(off)
	p.open = append(p.open, entity{part: part})
}

// enter looks at the innermost part, whose body begins at pos. It reports
// whether that body is a message whose header is to be read next. If the header
// was cut off by a delimiter, there is no body.
func (p *parser) enter(pos int, cut bool) bool {
	top := &p.open[len(p.open)-1]
	part := top.part
	composite := part.Type == "MULTIPART" || isMessage(part)
	if !composite {
		return false
	}
	if len(p.open) >= MaxDepth || p.parts >= MaxParts {
		// RFC 2046 4.5.1: an entity that is not looked into.
		part.Type, part.Subtype, part.Params = "APPLICATION", "OCTET-STREAM", nil
		return false
	}
	p.parts++
	switch {
	case part.Type != "MULTIPART":
		part.Message = &Part{Envelope: new(Envelope)}
		if cut {
			part.Message.setEmpty(part.Body.Off)
			return false
		}
		p.push(part.Message, pos)
		return true
	case !cut && top.hasBoundary:
		top.waiting = true
		p.waiting++
	}
	return false
}

// isMessage reports whether the body of part is a message. One of type
// message/global may be encoded (RFC 6532 3.5) and is then not looked into.
func isMessage(part *Part) bool {
	if part.Type != "MESSAGE" {
		return false
	}
	return part.Subtype == "RFC822" ||
		part.Subtype == "GLOBAL" && (part.Encoding == "7BIT" || part.Encoding == "8BIT" || part.Encoding == "BINARY")
}

// setEmpty makes part an empty text at off.
func (part *Part) setEmpty(off int64) {
	part.Header, part.Body = Span{Off: off}, Span{Off: off}
	part.Type, part.Subtype, part.Encoding = "TEXT", "PLAIN", "7BIT"
}

// closeAbove ends at offset end every open part beyond level.
func (p *parser) closeAbove(level, end int) {
	for i := len(p.open) - 1; i > level; i-- {
		e := &p.open[i]
		if e.waiting {
			p.waiting--
		}
		part := e.part
		part.Body.Len = int64(end) - part.Body.Off
		part.Lines = p.linesBefore(end) - e.lines
		if part.Type == "MULTIPART" && len(part.Children) == 0 {
			child := new(Part) // RFC 9051 9: body-type-mpart has one at least
			child.setEmpty(part.Body.End())
			part.Children = []*Part{child}
		}
	}
	p.open = p.open[:level+1]
}

// linesBefore counts the line ends before off, which never goes back.
func (p *parser) linesBefore(off int) int64 {
	p.lines += int64(bytes.Count(p.b[p.counted:off], newline))
	p.counted = off
	return p.lines
}

var newline = []byte{'\n'}

// nextDelimiter looks for a delimiter line from pos on, where a line begins.
func (p *parser) nextDelimiter(pos int) (d delimiter, found bool) {
	if p.waiting == 0 {
		return d, false
	}
	for at := pos; at < len(p.b); {
		i := bytes.IndexByte(p.b[at:], '-')
		if i < 0 {
			break
		}
		at += i
		if at == pos || p.b[at-1] == '\n' {
			if d, found = p.delimiterAt(at); found {
				// The line end before the line belongs to it.
				d.end = p.beforeEOL(pos, at)
				return d, true
			}
		}
		if i = bytes.IndexByte(p.b[at:], '\n'); i < 0 {
			break
		}
		at += i + 1
	}
	return d, false
}

// beforeEOL is the offset of the line end before off, not going back beyond
// start.
func (p *parser) beforeEOL(start, off int) int {
	if off > start && p.b[off-1] == '\n' {
		off--
		if off > start && p.b[off-1] == '\r' {
			off--
		}
	}
	return off
}

// delimiterAt looks for a delimiter at at, where a line begins. As RFC 2046
// 5.1.2 has it, the delimiters of outer multiparts end inner ones. What
// follows a boundary in its line does not matter, so the longest boundary that
// the line begins with counts, the innermost of equal ones.
func (p *parser) delimiterAt(at int) (d delimiter, found bool) {
	line := p.b[at:]
	if p.waiting == 0 || len(line) < 2 || line[0] != '-' || line[1] != '-' {
		return d, false
	}
	line = line[2:]
	best := -1
	for i := len(p.open) - 1; i >= 0; i-- {
		e := &p.open[i]
		if e.waiting && (best < 0 || len(e.boundary) > len(p.open[best].boundary)) &&
			len(line) >= len(e.boundary) && string(line[:len(e.boundary)]) == e.boundary {
			best = i
		}
	}
	if best < 0 {
		return d, false
	}
	d.level = best
	line = line[len(p.open[best].boundary):]
	d.closing = len(line) >= 2 && line[0] == '-' && line[1] == '-'
	if !d.closing && p.parts >= MaxParts && len(p.open[best].part.Children) > 0 {
		return d, false // what follows belongs to the part before
	}
	next, eol := lineEnd(p.b, len(p.b)-len(line))
	d.next, d.cut = next, eol == 0
	return d, true
}

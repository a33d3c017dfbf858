package message

import (
	"strconv"
	"unicode/utf8"
)

// defaultCharset is what text without a charset is in (RFC 2045 5.2).
const defaultCharset = "us-ascii"

// AppendEnvelope appends e as an IMAP ENVELOPE (RFC 9051 7.5.2), with its
// parentheses. Absent Sender and Reply-To are those of From. A nil e is an
// envelope of NILs. With utf8 set, strings may be quoted although they have
// octets beyond ASCII: for a client that enabled IMAP4rev2 or UTF8=ACCEPT.
func AppendEnvelope(dst []byte, e *Envelope, utf8 bool) []byte {
	if e == nil {
		e = &Envelope{}
	}
	w := wire{dst: dst, utf8: utf8}
	w.envelope(e)
	return w.dst
}

// AppendBodyStructure appends p as an IMAP BODYSTRUCTURE, or as a BODY if
// extended is not set (RFC 9051 7.5.2), with its parentheses. With utf8 set,
// strings may be quoted as in AppendEnvelope, and message/global is shown with
// its envelope and structure.
func AppendBodyStructure(dst []byte, p *Part, extended, utf8 bool) []byte {
	w := wire{dst: dst, utf8: utf8, extended: extended}
	w.body(p)
	return w.dst
}

// wire writes IMAP response data.
type wire struct {
	dst            []byte
	utf8, extended bool
}

func (w *wire) raw(s string) { w.dst = append(w.dst, s...) }

func (w *wire) space() { w.dst = append(w.dst, ' ') }

func (w *wire) number(n int64) { w.dst = strconv.AppendInt(w.dst, n, 10) }

// nstring writes s, or NIL if there is none.
func (w *wire) nstring(s *string) {
	if s == nil {
		w.raw("NIL")
		return
	}
	w.string(*s)
}

// optional writes s, or NIL if it is empty.
func (w *wire) optional(s string) {
	if s == "" {
		w.raw("NIL")
		return
	}
	w.string(s)
}

const (
	wirePlain   = iota // goes between quotes as it is
	wireEscape         // needs a backslash before it
	wire8bit           // goes between quotes if the client knows UTF-8
	wireLiteral        // needs a literal
)

var wireClass = func() (t [256]byte) {
	for c := 0x80; c < 0x100; c++ {
		t[c] = wire8bit
	}
	t['"'], t['\\'] = wireEscape, wireEscape
	t['\r'], t['\n'], t[0] = wireLiteral, wireLiteral, wireLiteral
	return t
}()

// string writes s between quotes or as a literal.
func (w *wire) string(s string) {
	worst := byte(wirePlain)
	for i := range len(s) {
		worst = max(worst, wireClass[s[i]])
	}
	switch {
	case worst == wirePlain:
		w.dst = append(w.dst, '"')
		w.dst = append(w.dst, s...)
		w.dst = append(w.dst, '"')
	case worst == wireEscape || worst == wire8bit && w.utf8 && utf8.ValidString(s):
		w.dst = append(w.dst, '"')
		for i := range len(s) {
			if wireClass[s[i]] == wireEscape {
				w.dst = append(w.dst, '\\')
			}
			w.dst = append(w.dst, s[i])
		}
		w.dst = append(w.dst, '"')
	default:
		w.literal(s)
	}
}

// literal writes s as a literal, which cannot have NUL (RFC 9051 9, CHAR8).
func (w *wire) literal(s string) {
	n := len(s)
	for i := range len(s) {
		if s[i] == 0 {
			n--
		}
	}
	w.dst = append(w.dst, '{')
	w.number(int64(n))
	w.raw("}\r\n")
	for i := range len(s) {
		if s[i] != 0 {
			w.dst = append(w.dst, s[i])
		}
	}
}

func (w *wire) envelope(e *Envelope) {
	sender, replyTo := e.Sender, e.ReplyTo
	if len(sender) == 0 {
		sender = e.From
	}
	if len(replyTo) == 0 {
		replyTo = e.From
	}
	w.raw("(")
	w.nstring(e.Date)
	w.space()
	w.nstring(e.Subject)
	for _, list := range [...][]Address{e.From, sender, replyTo, e.To, e.Cc, e.Bcc} {
		w.space()
		w.addresses(list)
	}
	w.space()
	w.nstring(e.InReplyTo)
	w.space()
	w.nstring(e.MessageID)
	w.raw(")")
}

func (w *wire) addresses(list []Address) {
	if len(list) == 0 {
		w.raw("NIL")
		return
	}
	w.raw("(")
	for i := range list {
		a := &list[i]
		w.raw("(")
		w.nstring(a.Name)
		w.space()
		w.nstring(a.Route)
		w.space()
		w.nstring(a.Mailbox)
		w.space()
		w.nstring(a.Host)
		w.raw(")")
	}
	w.raw(")")
}

func (w *wire) body(p *Part) {
	w.raw("(")
	if len(p.Children) > 0 {
		for _, child := range p.Children {
			w.body(child)
		}
		w.space()
		w.string(p.Subtype)
		if w.extended {
			w.space()
			w.params(p.Params, false)
			w.tail(p)
		}
		w.raw(")")
		return
	}
	isText := p.Type == "TEXT"
	w.string(p.Type)
	w.space()
	w.string(p.Subtype)
	w.space()
	w.params(p.Params, isText)
	w.space()
	w.optional(p.ID)
	w.space()
	w.optional(p.Description)
	w.space()
	w.string(p.Encoding)
	w.space()
	w.number(p.Body.Len)
	switch {
	case isText:
		w.space()
		w.number(p.Lines)
	case p.Message != nil && (w.utf8 || p.Subtype == "RFC822"):
		w.space()
		w.envelope(p.Message.Envelope)
		w.space()
		w.body(p.Message)
		w.space()
		w.number(p.Lines)
	}
	if w.extended {
		w.space()
		w.optional(p.MD5)
		w.tail(p)
	}
	w.raw(")")
}

// tail writes what the extended forms of all bodies have in common.
func (w *wire) tail(p *Part) {
	if p.Disposition == "" {
		w.raw(" NIL ")
	} else {
		w.raw(" (")
		w.string(p.Disposition)
		w.space()
		w.params(p.DispParams, false)
		w.raw(") ")
	}
	w.languages(p.Language)
	w.space()
	w.optional(p.Location)
}

func (w *wire) languages(tags []string) {
	if len(tags) == 0 {
		w.raw("NIL")
		return
	}
	for i, tag := range tags {
		if i == 0 {
			w.raw("(")
		} else {
			w.space()
		}
		w.string(tag)
	}
	w.raw(")")
}

// params writes a parameter list, with a charset in any case for text.
func (w *wire) params(list []Param, isText bool) {
	if len(list) == 0 && !isText {
		w.raw("NIL")
		return
	}
	w.raw("(")
	for i := range list {
		param := &list[i]
		if i > 0 {
			w.space()
		}
		if isText && equalFold(param.Name, "charset") {
			isText = false
		}
		if param.Extended != "" {
			w.string(param.Name + "*")
			w.space()
			w.string(param.Extended)
			continue
		}
		w.string(param.Name)
		w.space()
		w.string(param.Value)
	}
	if isText {
		if len(list) > 0 {
			w.space()
		}
		w.raw(`"charset" "` + defaultCharset + `"`)
	}
	w.raw(")")
}

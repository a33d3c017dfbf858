package message

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/mail"
)

const (
	lineWidth  = 77  // octets of a line, where it can be folded
	maxWord    = 900 // octets of a word that is written as it is (RFC 5322 2.1.1)
	maxEncoded = 75  // octets of an encoded word (RFC 2047 2)
)

// ValidFieldName reports whether name can be the name of a header field
// (RFC 5322 2.2).
func ValidFieldName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return name != "" && len(name) <= lineWidth
}

// AppendField appends a header field with unstructured text, folded. Control
// characters, CR and LF among them, count as space; words beyond ASCII become
// encoded words (RFC 2047). A name that is not valid appends nothing.
func AppendField(dst []byte, name, value string) []byte {
	if !ValidFieldName(name) {
		return dst
	}
	f := newFolder(dst, name)
	words := strings.FieldsFunc(value, func(r rune) bool { return r <= ' ' || r == 0x7f })
	for len(words) > 0 {
		n := 0
		for n < len(words) && needsEncoding(words[n]) {
			n++
		}
		if n == 0 {
			f.word(words[0])
			words = words[1:]
			continue
		}
		f.encoded(strings.Join(words[:n], " "))
		words = words[n:]
	}
	return f.end()
}

// AppendMailboxField appends a header field with one mailbox, such as From, To
// or Sender. Phrase is the display name and may be empty; the null address is
// written as <>. Control characters cannot leave their place.
func AppendMailboxField(dst []byte, name, phrase string, addr mail.Address) []byte {
	if !ValidFieldName(name) {
		return dst
	}
	f := newFolder(dst, name)
	phrase = strings.Join(strings.FieldsFunc(phrase, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	switch {
	case phrase == "":
	case needsEncoding(phrase):
		f.encoded(phrase)
	case strings.ContainsAny(phrase, `()<>@,;:\".[]`):
		f.word(`"`, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(phrase), `"`)
	default:
		f.word(phrase)
	}
	f.word(cleanPath(addr))
	return f.end()
}

// AppendReturnPath appends the Return-Path field of final delivery (RFC 5321
// 4.4).
func AppendReturnPath(dst []byte, addr mail.Address) []byte {
	dst = append(dst, "Return-Path: "...)
	dst = append(dst, cleanPath(addr)...)
	return append(dst, '\r', '\n')
}

// cleanPath is the path of addr with no control character in it.
func cleanPath(addr mail.Address) string {
	path := addr.Path()
	for i := range len(path) {
		if path[i] < ' ' || path[i] == 0x7f {
			return strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return '?'
				}
				return r
			}, path)
		}
	}
	return path
}

// NewMessageID makes a Message-ID with its angle brackets (RFC 5322 3.6.4),
// random to 128 bits.
func NewMessageID(host string) string {
	return "<" + strings.ToLower(rand.Text()) + "@" + clean(host, inHost) + ">"
}

// needsEncoding reports whether word can be in a field only as an encoded word:
// it has octets beyond ASCII, is too long, or would be taken for one.
func needsEncoding(word string) bool {
	for i := range len(word) {
		if word[i] >= utf8.RuneSelf {
			return true
		}
	}
	return len(word) > maxWord || strings.HasPrefix(word, "=?") && !strings.HasSuffix(word, "?=")
}

// folder writes a header field word by word.
type folder struct {
	dst  []byte
	line int // where the line begins
}

func newFolder(dst []byte, name string) folder {
	f := folder{dst: dst, line: len(dst)}
	f.dst = append(append(f.dst, name...), ':')
	return f
}

// word writes a word, given in pieces, with the space or fold before it.
func (f *folder) word(pieces ...string) {
	size := 0
	for _, s := range pieces {
		size += len(s)
	}
	f.space(size)
	for _, s := range pieces {
		f.dst = append(f.dst, s...)
	}
}

// space writes what is before a word of size octets.
func (f *folder) space(size int) {
	if len(f.dst)-f.line+1+size > lineWidth && f.dst[len(f.dst)-1] != ':' {
		f.fold()
	} else {
		f.dst = append(f.dst, ' ')
	}
}

// fold begins a line.
func (f *folder) fold() {
	f.dst = append(f.dst, '\r', '\n')
	f.line = len(f.dst)
	f.dst = append(f.dst, '\t')
}

func (f *folder) end() []byte { return append(f.dst, '\r', '\n') }

// encoded writes text as encoded words that cut no character apart.
func (f *folder) encoded(text string) {
	const head, tail = "=?utf-8?B?", "?="
	most := (maxEncoded - len(head) - len(tail)) / 4 * 3
	text = strings.ToValidUTF8(text, "\uFFFD")
	for text != "" {
		n := min(len(text), most)
		for n < len(text) && !utf8.RuneStart(text[n]) {
			n--
		}
		f.word(head, base64.StdEncoding.EncodeToString([]byte(text[:n])), tail)
		text = text[n:]
	}
}

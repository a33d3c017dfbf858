package message

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/simplifiedchinese"
)

// Text returns the text of a part of type text, decoded and in UTF-8, p being a
// part of msg, and whether p is such a part. Limit bounds the octets before the
// conversion if it is above 0. Text in an unknown charset is returned as it is,
// and so is text in an unknown encoding. Where nothing has to be converted, the
// result is a part of msg.
func (p *Part) Text(msg []byte, limit int64) ([]byte, bool) {
	if p.Type != "TEXT" {
		return nil, false
	}
	text, err := p.Decoded(msg, limit)
	if err != nil {
		raw := *p
		raw.Encoding = ""
		if text, err = raw.Decoded(msg, limit); err != nil {
			return nil, false
		}
	}
	for i := range p.Params {
		if equalFold(p.Params[i].Name, "charset") {
			text, _ = toUTF8(text, p.Params[i].Value)
			break
		}
	}
	return text, true
}

// toUTF8 converts b to UTF-8. If it cannot, it returns b and false.
func toUTF8(b []byte, charset string) ([]byte, bool) {
	charset = strings.ToLower(strings.TrimSpace(charset))
	switch charset {
	case "", "us-ascii", "utf-8", "utf8", "ascii":
		return b, true
	case "utf-7", "unicode-1-1-utf-7":
		return decodeUTF7(b), true
	}
	stateful := charset == "hz-gb-2312" || strings.HasPrefix(charset, "iso-2022-") ||
		strings.HasPrefix(charset, "utf-16") || strings.HasPrefix(charset, "utf-32")
	enc := lookupCharset(charset)
	if enc == nil {
		return b, false
	}
	if !stateful && isASCII(b) {
		return b, true
	}
	out, err := enc.NewDecoder().Bytes(b)
	if err != nil {
		return b, false
	}
	return out, true
}

// lookupCharset finds a charset by the names in use on the web, which cover
// what mail programs write, and by the registered ones.
func lookupCharset(name string) encoding.Encoding {
	if name == "hz-gb-2312" {
		return simplifiedchinese.HZGB2312
	}
	if enc, err := htmlindex.Get(name); err == nil {
		if canonical, err := htmlindex.Name(enc); err == nil && canonical != "replacement" {
			return enc
		}
	}
	enc, err := ianaindex.MIME.Encoding(name)
	if err != nil {
		return nil
	}
	return enc
}

// isASCII reports whether no octet is above 127.
func isASCII(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

var utf7Base64 = base64.StdEncoding.WithPadding(base64.NoPadding)

// decodeUTF7 decodes UTF-7 (RFC 2152), leaving what is not as it is.
func decodeUTF7(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '+' {
			out = append(out, b[i])
			continue
		}
		end := i + 1
		for end < len(b) && base64Value(b[end]) != badDigit {
			end++
		}
		if end == i+1 {
			out = append(out, '+')
			if end < len(b) && b[end] == '-' {
				i++
			}
			continue
		}
		digits := b[i+1 : end]
		if len(digits)%4 == 1 {
			digits = digits[:len(digits)-1]
		}
		raw, err := utf7Base64.AppendDecode(nil, digits)
		if err != nil { // cannot be: all are digits
			raw = nil
		}
		units := make([]uint16, len(raw)/2)
		for j := range units {
			units[j] = binary.BigEndian.Uint16(raw[2*j:])
		}
		for _, r := range utf16.Decode(units) {
			out = utf8.AppendRune(out, r)
		}
		i = end - 1
		if end < len(b) && b[end] == '-' {
			i = end
		}
	}
	return out
}

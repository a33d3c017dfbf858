package message

import "strings"

// maxCharsetName bounds the name of a charset in an encoded word.
const maxCharsetName = 60

// DecodeWords replaces the encoded words of a field value by their text in
// UTF-8 (RFC 2047). A word that is not well formed, or in an unknown charset,
// stays as it is. Words of one charset that follow one another are read as one,
// since mail programs cut characters apart.
func DecodeWords(s string) string {
	first := strings.Index(s, "=?")
	if first < 0 {
		return s
	}
	w := wordDecoder{out: append(make([]byte, 0, len(s)), s[:first]...)}
	s = s[first:]
	for s != "" {
		word, rest, ok := cutWord(s)
		if ok {
			w.add(word)
			s = rest
			continue
		}
		next := len(s)
		if i := strings.Index(s[1:], "=?"); i >= 0 {
			next = i + 1
		}
		if !w.open || strings.Trim(s[:next], " \t\r\n") != "" || next == len(s) {
			w.flush()
			w.out = append(w.out, s[:next]...)
		} else {
			w.gap = s[:next]
		}
		s = s[next:]
	}
	w.flush()
	return string(w.out)
}

// encodedWord is =?charset?encoding?text?=, raw.
type encodedWord struct {
	raw, charset, text string
	base64             bool
}

// cutWord takes an encoded word from the front of s.
func cutWord(s string) (word encodedWord, rest string, ok bool) {
	if !strings.HasPrefix(s, "=?") {
		return word, s, false
	}
	head := s[2:min(len(s), 2+maxCharsetName)]
	charset, _, ok := strings.Cut(head, "?")
	if !ok || charset == "" || strings.ContainsAny(charset, " \t") {
		return word, s, false
	}
	body := s[2+len(charset)+1:]
	if len(body) < 2 || body[1] != '?' {
		return word, s, false
	}
	switch lowerASCII(body[0]) {
	case 'b':
		word.base64 = true
	case 'q':
	default:
		return word, s, false
	}
	body = body[2:]
	end := strings.IndexByte(body, '?')
	if end < 0 || end+1 >= len(body) || body[end+1] != '=' {
		return word, s, false
	}
	word.text = body[:end]
	word.charset, _, _ = strings.Cut(charset, "*") // the language (RFC 2231 5)
	rest = body[end+2:]
	word.raw = s[:len(s)-len(rest)]
	return word, rest, true
}

// wordDecoder gathers encoded words of one charset.
type wordDecoder struct {
	out     []byte
	open    bool // words are gathered
	charset string
	octets  []byte
	raw     []byte // how they were written
	gap     string // white space behind them
}

func (w *wordDecoder) add(word encodedWord) {
	if w.open && !strings.EqualFold(w.charset, word.charset) {
		w.gap = ""
		w.flush()
	}
	if !w.open {
		w.open, w.charset = true, word.charset
		w.octets, w.raw = w.octets[:0], w.raw[:0]
	}
	w.raw = append(append(w.raw, w.gap...), word.raw...)
	w.gap = ""
	if word.base64 {
		w.octets = append(w.octets, decodeBase64([]byte(word.text), len(word.text))...)
		return
	}
	for i := 0; i < len(word.text); i++ {
		c := word.text[i]
		switch {
		case c == '_':
			c = ' '
		case c == '=' && i+2 < len(word.text) && unhex(word.text[i+1])|unhex(word.text[i+2]) < 16:
			c = unhex(word.text[i+1])<<4 | unhex(word.text[i+2])
			i += 2
		}
		w.octets = append(w.octets, c)
	}
}

// flush writes the text of the gathered words.
func (w *wordDecoder) flush() {
	if !w.open {
		return
	}
	w.open = false
	if text, ok := toUTF8(w.octets, w.charset); ok {
		w.out = append(w.out, text...)
	} else {
		w.out = append(w.out, w.raw...)
	}
	w.out = append(w.out, w.gap...)
	w.gap = ""
}

package message

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Fold returns the form of s under which texts are compared: in UTF-8,
// decomposed for compatibility, in lower case. It is close to the collation
// i;unicode-casemap (RFC 5051), which IMAP SEARCH wants. What is not UTF-8
// stays as it is.
func Fold(s []byte) []byte { return appendFolded(make([]byte, 0, len(s)), s) }

// Chunks of a text that are folded and searched at a time: small enough to
// stay in the processor's cache.
const foldChunk = 16 << 10

// Contains reports whether hay contains, when folded, needleFolded, which is
// the result of Fold. An empty needle is contained in everything. Its time is
// linear in the length of hay.
func Contains(hay, needleFolded []byte) bool {
	if len(needleFolded) == 0 {
		return true
	}
	pooled := foldBuffers.Get().(*[]byte)
	buf, found := (*pooled)[:0], false
	for len(hay) > 0 && !found {
		n := chunkLen(hay)
		buf = appendFolded(buf, hay[:n])
		found = bytes.Contains(buf, needleFolded)
		hay = hay[n:]
		keep := min(len(buf), len(needleFolded)-1)
		buf = buf[:copy(buf, buf[len(buf)-keep:])]
	}
	if cap(buf) <= maxKept {
		*pooled = buf
		foldBuffers.Put(pooled)
	}
	return found
}

var foldBuffers = sync.Pool{New: func() any {
	buf := make([]byte, 0, foldChunk*5/4)
	return &buf
}}

// chunkLen is the length of the first chunk of b, which cuts no character
// apart.
func chunkLen(b []byte) int {
	if len(b) <= foldChunk {
		return len(b)
	}
	n := foldChunk
	for i := 0; i < utf8.UTFMax && !utf8.RuneStart(b[n]); i++ {
		n--
	}
	return n
}

// appendFolded appends the folded form of s.
func appendFolded(dst, s []byte) []byte {
	for len(s) > 0 {
		var n int
		dst, n = appendLowerASCII(dst, s)
		s = s[n:]
		if len(s) == 0 {
			break
		}
		end := 0 // of the run of characters beyond ASCII
		for end < len(s) && s[end] >= utf8.RuneSelf {
			end++
		}
		dst = appendFoldedRunes(dst, s[:end])
		s = s[end:]
	}
	return dst
}

// appendLowerASCII appends the ASCII octets that s begins with, in lower case,
// and returns how many they are.
func appendLowerASCII(dst, s []byte) ([]byte, int) {
	const (
		high = 0x8080808080808080
		ones = 0x0101010101010101
	)
	start := len(dst)
	dst = slices.Grow(dst, len(s))[:start+len(s)]
	out := dst[start:]
	i := 0
	for ; i+8 <= len(s); i += 8 {
		w := binary.LittleEndian.Uint64(s[i:])
		if w&high != 0 {
			break
		}
		// The high bit of each octet that is at least 'A', less those above 'Z'.
		upper := (w + (0x80-'A')*ones) &^ (w + (0x80-'Z'-1)*ones) & high
		binary.LittleEndian.PutUint64(out[i:], w|upper>>2)
	}
	for ; i < len(s) && s[i] < utf8.RuneSelf; i++ {
		out[i] = lowerASCII(s[i])
	}
	return dst[:start+i], i
}

// foldedRunes holds the folded forms of the characters that have two octets in
// UTF-8: those of the alphabets of Europe and the Near East.
var foldedRunes = sync.OnceValue(func() *[0x800][]byte {
	var t [0x800][]byte
	for r := rune(utf8.RuneSelf); r < 0x800; r++ {
		t[r] = foldRune(nil, utf8.AppendRune(nil, r))
	}
	return &t
})

// foldRune appends the folded form of the character s.
func foldRune(dst, s []byte) []byte {
	var room [64]byte
	for _, d := range string(norm.NFKD.Append(room[:0], s...)) {
		dst = utf8.AppendRune(dst, unicode.ToLower(unicode.ToUpper(d)))
	}
	return dst
}

// appendFoldedRunes folds characters beyond ASCII.
func appendFoldedRunes(dst, s []byte) []byte {
	table := foldedRunes()
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		switch {
		case r == utf8.RuneError && n <= 1:
			n = 1
			dst = append(dst, s[0])
		case r < 0x800:
			dst = append(dst, table[r]...)
		case 0x3400 <= r && r <= 0x9fff: // unified ideographs have one form
			dst = append(dst, s[:n]...)
		default:
			dst = foldRune(dst, s[:n])
		}
		s = s[n:]
	}
	return dst
}

package message

import (
	"bytes"
	"errors"
)

// ErrUnknownEncoding says that a Content-Transfer-Encoding is none of RFC 2045:
// the octets that it stands for cannot be told (UNKNOWN-CTE of RFC 3516 4.3).
var ErrUnknownEncoding = errors.New("unknown content transfer encoding")

// ErrSpan says that a part does not lie in the message given with it.
var ErrSpan = errors.New("part is not of this message")

// Decoded returns the octets that the body of p stands for, p being a part of
// msg, at most limit of them if limit is above 0. Where nothing is encoded it
// returns a part of msg. Base64 and quoted-printable are read leniently: what
// is no code is passed over, or taken as it stands. The error is
// ErrUnknownEncoding or ErrSpan.
func (p *Part) Decoded(msg []byte, limit int64) ([]byte, error) {
	if p.Body.Off < 0 || p.Body.Len < 0 || p.Body.Len > int64(len(msg)) || p.Body.Off > int64(len(msg))-p.Body.Len {
		return nil, ErrSpan
	}
	body := msg[p.Body.Off:p.Body.End():p.Body.End()]
	most := len(body)
	if limit > 0 && limit < int64(most) {
		most = int(limit)
	}
	switch p.Encoding {
	case "", "7BIT", "8BIT", "BINARY":
		return body[:most:most], nil
	case "BASE64":
		return decodeBase64(body, most), nil
	case "QUOTED-PRINTABLE":
		return decodeQuotedPrintable(body, most), nil
	}
	return nil, ErrUnknownEncoding
}

// base64Digits has, for each of the four places in a quantum, the bits of a
// digit in their place. What is no digit has badDigit.
var base64Digits = func() (t [4][256]uint32) {
	for place := range t {
		for i := range t[place] {
			t[place][i] = badDigit
		}
		for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
			t[place][c] = uint32(i) << (18 - 6*place)
		}
	}
	return t
}()

const badDigit = 1 << 31

// base64Value is the value of a digit, badDigit for another octet.
func base64Value(c byte) uint32 { return base64Digits[3][c] }

// decodeBase64 decodes at most limit octets. Octets that are not of the
// alphabet are passed over (RFC 2045 6.8), and padding may come before the
// end, as it does where pieces were joined.
func decodeBase64(src []byte, limit int) []byte {
	dst := make([]byte, min(limit, len(src)/4*3)+6)
	done := 0 // octets of dst
	var quantum uint32
	n := 0 // digits in quantum
	for len(src) > 0 && done < limit {
		if n == 0 {
			d, s := decodeQuanta(dst[done:], src)
			done += d
			if src = src[s:]; len(src) == 0 || done >= limit {
				break
			}
		}
		v := base64Value(src[0])
		switch {
		case v != badDigit:
			quantum = quantum<<6 | v
			n++
		case src[0] == '=':
			done += putQuantum(dst[done:], quantum, n)
			quantum, n = 0, 0
		}
		if n == 4 {
			done += putQuantum(dst[done:], quantum, n)
			quantum, n = 0, 0
		}
		src = src[1:]
	}
	if n > 0 && done < limit {
		done += putQuantum(dst[done:], quantum, n)
	}
	return dst[:min(done, limit)]
}

// decodeQuanta decodes whole quanta as long as there is nothing but digits and
// room for two, and returns how many octets it wrote and read.
func decodeQuanta(dst, src []byte) (wrote, read int) {
	for len(dst)-wrote >= 6 && len(src)-read >= 4 {
		s, d := src[read:read+4:read+4], dst[wrote:wrote+3:wrote+3]
		v := base64Digits[0][s[0]] | base64Digits[1][s[1]] | base64Digits[2][s[2]] | base64Digits[3][s[3]]
		if v >= badDigit {
			break
		}
		d[0], d[1], d[2] = byte(v>>16), byte(v>>8), byte(v)
		wrote += 3
		read += 4
	}
	return wrote, read
}

// putQuantum writes the whole octets of n base64 digits and returns how many
// they are.
func putQuantum(dst []byte, quantum uint32, n int) int {
	switch n {
	case 2:
		dst[0] = byte(quantum >> 4)
		return 1
	case 3:
		dst[0], dst[1] = byte(quantum>>10), byte(quantum>>2)
		return 2
	case 4:
		dst[0], dst[1], dst[2] = byte(quantum>>16), byte(quantum>>8), byte(quantum)
		return 3
	}
	return 0
}

// decodeQuotedPrintable decodes at most limit octets (RFC 2045 6.7). Space at
// the end of a line is none of the text.
func decodeQuotedPrintable(src []byte, limit int) []byte {
	dst := make([]byte, 0, min(limit, len(src)))
	for len(src) > 0 && len(dst) < limit {
		next, eol := lineEnd(src, 0)
		line := bytes.TrimRight(src[:next-eol], " \t")
		soft := len(line) > 0 && line[len(line)-1] == '='
		if soft {
			line = line[:len(line)-1]
		}
		for {
			i := bytes.IndexByte(line, '=')
			if i < 0 {
				dst = append(dst, line...)
				break
			}
			dst = append(dst, line[:i]...)
			line = line[i:]
			if len(line) >= 3 && unhex(line[1])|unhex(line[2]) < 16 {
				dst = append(dst, unhex(line[1])<<4|unhex(line[2]))
				line = line[3:]
			} else {
				dst = append(dst, '=')
				line = line[1:]
			}
		}
		if !soft {
			dst = append(dst, src[next-eol:next]...)
		}
		src = src[next:]
	}
	return dst[:min(len(dst), limit)]
}

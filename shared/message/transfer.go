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

const notBase64 = 0xff

var base64Values = func() (t [256]byte) {
	for i := range t {
		t[i] = notBase64
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = byte(i)
	}
	return t
}()

// decodeBase64 decodes at most limit octets. Octets that are not of the
// alphabet are passed over (RFC 2045 6.8), and padding may come before the
// end, as it does where pieces were joined.
func decodeBase64(src []byte, limit int) []byte {
	dst := make([]byte, 0, min(limit, len(src)/4*3+3)+3)
	var quantum uint32
	n := 0 // digits in quantum
	for i := 0; i < len(src) && len(dst) < limit; {
		for n == 0 && i+4 <= len(src) && len(dst) < limit {
			a, b, c, d := base64Values[src[i]], base64Values[src[i+1]], base64Values[src[i+2]], base64Values[src[i+3]]
			if a|b|c|d >= 64 {
				break
			}
			q := uint32(a)<<18 | uint32(b)<<12 | uint32(c)<<6 | uint32(d)
			dst = append(dst, byte(q>>16), byte(q>>8), byte(q))
			i += 4
		}
		if i >= len(src) {
			break
		}
		c := src[i]
		i++
		if v := base64Values[c]; v != notBase64 {
			quantum = quantum<<6 | uint32(v)
			if n++; n == 4 {
				dst = append(dst, byte(quantum>>16), byte(quantum>>8), byte(quantum))
				quantum, n = 0, 0
			}
		} else if c == '=' {
			dst = appendQuantum(dst, quantum, n)
			quantum, n = 0, 0
		}
	}
	dst = appendQuantum(dst, quantum, n)
	return dst[:min(len(dst), limit)]
}

// appendQuantum appends the whole octets of n base64 digits, less than 4.
func appendQuantum(dst []byte, quantum uint32, n int) []byte {
	switch n {
	case 2:
		dst = append(dst, byte(quantum>>4))
	case 3:
		dst = append(dst, byte(quantum>>10), byte(quantum>>2))
	}
	return dst
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

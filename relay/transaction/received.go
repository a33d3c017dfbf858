package transaction

import (
	"crypto/tls"
	"strings"
)

// appendReceived appends the Received field of this hop (RFC 5321 4.4). It
// names no recipient: the stored message is the same for all of them.
func (t *Transaction) appendReceived(b []byte) []byte {
	b = append(b, "Received: from "...)
	b = appendToken(b, t.src.Helo)
	if t.src.Client.IsValid() {
		b = append(b, " (["...)
		b = t.src.Client.Addr().Unmap().WithZone("").AppendTo(b)
		b = append(b, "])"...)
	}
	if t.src.TLS != nil {
		b = append(b, "\r\n\t(using "...)
		b = append(b, tls.VersionName(t.src.TLS.Version)...)
		b = append(b, " with cipher "...)
		b = append(b, tls.CipherSuiteName(t.src.TLS.CipherSuite)...)
		b = append(b, ')')
	}
	b = append(b, "\r\n\tby "...)
	b = append(b, t.a.cfg.Hostname...)
	if t.src.Protocol != "" {
		b = append(b, " with "...)
		b = append(b, t.src.Protocol...)
	}
	b = append(b, " id "...)
	b = append(b, t.env.QueueID...)
	b = append(b, ";\r\n\t"...)
	b = t.env.Arrival.AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 -0700")
	return append(b, '\r', '\n')
}

// appendToken appends a name that a client gave, with everything that has a
// meaning in a header field replaced.
func appendToken(b []byte, s string) []byte {
	if s == "" {
		s = "unknown"
	}
	for i := range min(len(s), 255) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._:[]", c) >= 0:
			b = append(b, c)
		default:
			b = append(b, '?')
		}
	}
	return b
}

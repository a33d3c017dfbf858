package message

import (
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// Received is the trace of one hop (RFC 5321 4.4). Empty values are left out.
// Whatever the values are, they stay in their places: what the grammar does
// not allow there is replaced.
type Received struct {
	Helo       string       // as the client gave it in HELO, EHLO or LHLO
	ClientIP   netip.Addr   // address of the client
	ClientName string       // its name by DNS, if that was verified
	By         string       // this host
	With       string       // protocol, ESMTPSA for example (RFC 3848)
	ID         string       // queue ID
	For        mail.Address // recipient, given only if there is a single one
	TLS        string       // version and cipher, for people
	Time       time.Time
}

// maxTraceValue bounds each value of a trace field, in octets.
const maxTraceValue = 255

// AppendReceived appends r as a Received field, folded.
func AppendReceived(dst []byte, r Received) []byte {
	f := newFolder(dst, "Received")
	if r.Helo != "" || r.ClientIP.IsValid() {
		helo := cleanHost(r.Helo)
		if helo == "" {
			helo = "unknown"
		}
		f.word("from")
		f.word(helo)
		if tcp := tcpInfo(r.ClientName, r.ClientIP); tcp != "" {
			f.word(tcp)
		}
	}
	if r.TLS != "" {
		f.word("(using " + cleanComment(r.TLS) + ")")
	}
	f.clause("by", cleanHost(r.By))
	f.clause("with", cleanAtom(r.With))
	f.clause("id", cleanAtom(r.ID))
	if !r.For.IsNull() {
		f.clause("for", cleanPath(r.For))
	}
	f.dst = append(f.dst, ';')
	date := r.Time.Format("Mon, 2 Jan 2006 15:04:05 -0700")
	if len(f.dst)-f.line+1+len(date) > lineWidth {
		f.fold()
	} else {
		f.dst = append(f.dst, ' ')
	}
	f.dst = append(f.dst, date...)
	return f.end()
}

// clause writes a name and its value in one line.
func (f *folder) clause(name, value string) {
	if value != "" {
		f.word(name + " " + value)
	}
}

// tcpInfo is (name [address]), RFC 5321 4.4, TCP-info.
func tcpInfo(name string, ip netip.Addr) string {
	name = cleanHost(name)
	if !ip.IsValid() {
		if name == "" {
			return ""
		}
		return "(" + name + ")"
	}
	ip = ip.Unmap().WithZone("")
	literal := "[" + ip.String() + "]"
	if ip.Is6() {
		literal = "[IPv6:" + ip.String() + "]"
	}
	if name == "" {
		name = "unknown"
	}
	return "(" + name + " " + literal + ")"
}

// clean replaces what ok refuses, and cuts what is too long.
func clean(s string, ok func(c byte) bool) string {
	s = s[:min(len(s), maxTraceValue)]
	for i := range len(s) {
		if !ok(s[i]) {
			return strings.Map(func(r rune) rune {
				if r < 0x80 && ok(byte(r)) {
					return r
				}
				return '?'
			}, s)
		}
	}
	return s
}

// cleanHost lets pass what occurs in domains and address literals.
func cleanHost(s string) string {
	return clean(s, func(c byte) bool {
		return c < 0x7f && (classes[c]&classToken != 0 || c == '[' || c == ']' || c == ':')
	})
}

// cleanAtom lets pass what occurs in an atom.
func cleanAtom(s string) string {
	return clean(s, func(c byte) bool { return c < 0x7f && (classes[c]&classAtext != 0 || c == '.') })
}

// cleanComment lets pass what can be in a comment as it is (RFC 5322 3.2.2).
func cleanComment(s string) string {
	return clean(s, func(c byte) bool { return ' ' <= c && c < 0x7f && c != '(' && c != ')' && c != '\\' })
}

// CountReceived counts the Received fields of a header block, for the
// detection of loops (RFC 5321 6.3).
func CountReceived(header []byte) int {
	n := 0
	for f := range Fields(header) {
		if equalFold(f.Name, "received") {
			n++
		}
	}
	return n
}

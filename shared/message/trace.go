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

const dateLayout = "Mon, 2 Jan 2006 15:04:05 -0700" // RFC 5322 3.3

// AppendReceived appends r as a Received field, folded.
func AppendReceived(dst []byte, r Received) []byte {
	f := newFolder(dst, "Received")
	if r.Helo != "" || r.ClientIP.IsValid() {
		helo := clean(r.Helo, inHost)
		if helo == "" {
			helo = "unknown"
		}
		f.word("from")
		f.word(helo)
		f.tcpInfo(clean(r.ClientName, inHost), r.ClientIP)
	}
	if r.TLS != "" {
		f.word("(using ", clean(r.TLS, inComment), ")")
	}
	f.clause("by ", clean(r.By, inHost))
	f.clause("with ", clean(r.With, inAtom))
	f.clause("id ", clean(r.ID, inAtom))
	if !r.For.IsNull() {
		f.clause("for ", cleanPath(r.For))
	}
	f.dst = append(f.dst, ';')
	f.space(len(dateLayout))
	f.dst = r.Time.AppendFormat(f.dst, dateLayout)
	return f.end()
}

// clause writes a name and its value in one line, if there is one.
func (f *folder) clause(name, value string) {
	if value != "" {
		f.word(name, value)
	}
}

// tcpInfo writes (name [address]), RFC 5321 4.4, TCP-info.
func (f *folder) tcpInfo(name string, ip netip.Addr) {
	if !ip.IsValid() {
		if name != "" {
			f.word("(", name, ")")
		}
		return
	}
	if name == "" {
		name = "unknown"
	}
	tag := " ["
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		tag = " [IPv6:"
	}
	f.word("(", name, tag, ip.String(), "])")
}

const (
	inHost    = 1 << iota // occurs in domains and address literals
	inAtom                // occurs in an atom with dots (RFC 5322 3.2.3)
	inComment             // can be in a comment as it is (RFC 5322 3.2.2)
)

var traceClasses = func() (t [256]byte) {
	for c := byte(' '); c < 0x7f; c++ {
		if classes[c]&classToken != 0 || c == '[' || c == ']' || c == ':' {
			t[c] |= inHost
		}
		if classes[c]&classAtext != 0 || c == '.' {
			t[c] |= inAtom
		}
		if c != '(' && c != ')' && c != '\\' {
			t[c] |= inComment
		}
	}
	return t
}()

// clean replaces each character that is not of class, and cuts what is too
// long.
func clean(s string, class byte) string {
	s = s[:min(len(s), maxTraceValue)]
	for i := range len(s) {
		if traceClasses[s[i]]&class == 0 {
			return strings.Map(func(r rune) rune {
				if r < 0x80 && traceClasses[r]&class != 0 {
					return r
				}
				return '?'
			}, s)
		}
	}
	return s
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

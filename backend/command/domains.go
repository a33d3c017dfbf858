package command

import (
	"slices"
	"strings"
)

// maxDomain bounds a domain in the table, and with it what a short entry can
// make of its recipients (RFC 1035 2.3.4: 255 octets).
const maxDomain = 255

// domains is the table of version 3: the domains of a delivery's recipients in
// the order in which they first occur. A recipient is then its local part and
// the domain's place in the table, counted from 1; 0 is a name without domain.
type domains []string

// splitAccount takes the domain off an account's name.
func splitAccount(name string) (local, domain string, ok bool) {
	at := strings.LastIndexByte(name, '@')
	if at < 0 || len(name)-at-1 > maxDomain {
		return name, "", false
	}
	return name[:at], name[at+1:], true
}

func domainsOf(rcpts []Recipient) (d domains) {
	for i := range rcpts {
		if _, domain, ok := splitAccount(rcpts[i].Account); ok && !slices.Contains(d, domain) {
			d = append(d, domain)
		}
	}
	return d
}

// append adds the name of an account.
func (d domains) append(b []byte, account string) []byte {
	local, domain, ok := splitAccount(account)
	place := 0
	if ok {
		place = slices.Index(d, domain) + 1
	}
	return appendString(appendUint(b, uint64(place)), local)
}

// read takes the name of an account off r.
func (d domains) read(r *reader) string {
	place, local := r.uint(), r.string()
	if place == 0 {
		if _, _, ok := splitAccount(local); ok {
			r.fail("account with a domain outside the table")
		}
		return local
	}
	if place > uint64(len(d)) {
		r.fail("domain")
		return ""
	}
	return local + "@" + d[place-1]
}

// domains reads a table. That it is the one of the recipients is for the caller
// to see.
func (r *reader) domains() domains {
	d := domains(r.strings(MaxRecipients))
	for _, name := range d {
		if len(name) > maxDomain || strings.IndexByte(name, '@') >= 0 {
			r.fail("domain")
			return nil
		}
	}
	return d
}

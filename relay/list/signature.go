package list

import (
	"bytes"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/message"
)

// brokenSignatures lists the domains whose DKIM signatures (RFC 6376) do not hold
// for the copy with the header now, in place of was, and another body if body is
// set. "" for none. A field counts with all that it has, so that a change in white
// space alone counts too.
func brokenSignatures(was, now []byte, body bool) string {
	var domains []string
	for f := range message.Fields(was) {
		if !bytes.EqualFold(f.Name, []byte("DKIM-Signature")) {
			continue
		}
		tags := dkimTags(message.Unfold(f.Body))
		broken := body
		for name := range strings.SplitSeq(tags["h"], ":") {
			name = strings.TrimSpace(name)
			broken = broken || name != "" && !slices.Equal(values(was, name), values(now, name))
		}
		if d := tags["d"]; broken && !slices.Contains(domains, d) {
			domains = append(domains, d)
		}
	}
	return strings.Join(domains, ", ")
}

// dkimTags are the tags of a signature (RFC 6376 3.2) that are looked at.
func dkimTags(text []byte) map[string]string {
	tags := map[string]string{}
	for part := range strings.SplitSeq(string(text), ";") {
		name, value, ok := strings.Cut(part, "=")
		if name = strings.TrimSpace(name); ok && (name == "h" || name == "d") {
			tags[name] = strings.Join(strings.Fields(value), "")
		}
	}
	return tags
}

// values are the bodies of the fields of that name, in order.
func values(header []byte, name string) (out []string) {
	for f := range message.Fields(header) {
		if strings.EqualFold(string(f.Name), name) {
			out = append(out, string(bytes.TrimSpace(f.Body)))
		}
	}
	return out
}

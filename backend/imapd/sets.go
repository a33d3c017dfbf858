package imapd

import (
	"github.com/postern-mail/postern/shared/imapwire"
)

// errRange is a sequence number beyond the mailbox (RFC 9051 9, seq-number).
var errRange = &reply{status: "BAD", text: "No message with such a number", mild: true}

// resolve turns a set into ascending ranges of sequence numbers. With uid it
// is a set of UIDs, of which those without a message are left out.
func (s *session) resolve(set imapwire.Set, uid bool) ([]imapwire.Range, error) {
	n := s.view.Len()
	switch {
	case set.Saved:
		return s.seqRanges(s.saved), nil
	case uid:
		last := uint32(0)
		if n > 0 {
			last = s.view.UID(n)
		}
		return s.seqRanges(set.Resolve(last)), nil
	}
	for _, r := range set.Ranges {
		if n == 0 || int64(r.Start) > int64(n) || int64(r.Stop) > int64(n) {
			return nil, errRange
		}
	}
	return set.Resolve(uint32(n)), nil
}

// seqRanges turns ascending ranges of UIDs into those of sequence numbers.
func (s *session) seqRanges(uids []imapwire.Range) []imapwire.Range {
	out := make([]imapwire.Range, 0, len(uids))
	for _, r := range uids {
		first, _ := s.view.Seq(r.Start)
		last, ok := s.view.Seq(r.Stop)
		if !ok {
			last--
		}
		if first <= last {
			out = append(out, imapwire.Range{Start: uint32(first), Stop: uint32(last)})
		}
	}
	return imapwire.Merge(out)
}

// uids lists the UIDs of ranges of sequence numbers.
func (s *session) uids(ranges []imapwire.Range) []uint32 {
	out := make([]uint32, 0, count(ranges))
	for _, r := range ranges {
		for seq := r.Start; seq <= r.Stop; seq++ {
			out = append(out, s.view.UID(int(seq)))
		}
	}
	return out
}

// uidRanges makes ranges of ascending UIDs.
func uidRanges(uids []uint32) []imapwire.Range {
	var out []imapwire.Range
	for _, uid := range uids {
		if n := len(out); n > 0 && out[n-1].Stop+1 == uid {
			out[n-1].Stop = uid
		} else {
			out = append(out, imapwire.Range{Start: uid, Stop: uid})
		}
	}
	return out
}

// count is how many numbers ranges hold.
func count(ranges []imapwire.Range) int {
	n := 0
	for _, r := range ranges {
		n += int(r.Stop-r.Start) + 1
	}
	return n
}

// intersect returns what two lists of ascending ranges have in common.
func intersect(a, b []imapwire.Range) []imapwire.Range {
	var out []imapwire.Range
	for len(a) > 0 && len(b) > 0 {
		first, last := max(a[0].Start, b[0].Start), min(a[0].Stop, b[0].Stop)
		if first <= last {
			out = append(out, imapwire.Range{Start: first, Stop: last})
		}
		if a[0].Stop < b[0].Stop {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// cursor goes through ranges in pieces.
type cursor struct {
	ranges []imapwire.Range
	next   uint32 // in ranges[0]; 0: its beginning
}

// fill appends the next numbers to dst as far as it has room.
func (c *cursor) fill(dst []int) []int {
	for len(c.ranges) > 0 && len(dst) < cap(dst) {
		r := c.ranges[0]
		for n := max(c.next, r.Start); ; n++ {
			if len(dst) == cap(dst) {
				c.next = n
				return dst
			}
			dst = append(dst, int(n))
			if n == r.Stop {
				break
			}
		}
		c.ranges, c.next = c.ranges[1:], 0
	}
	return dst
}

package command

import "sort"

// Range is the UIDs First to Last, both included.
type Range struct {
	First, Last uint32
}

// UIDSet is a set of UIDs as ascending ranges that neither overlap nor touch.
// UIDs in it that no message has are without effect.
type UIDSet []Range

// Add returns s with uid, which must be above every UID of s.
func (s UIDSet) Add(uid uint32) UIDSet {
	if n := len(s); n > 0 && s[n-1].Last+1 == uid {
		s[n-1].Last = uid
		return s
	}
	return append(s, Range{uid, uid})
}

// Has reports whether uid is in s.
func (s UIDSet) Has(uid uint32) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].Last >= uid })
	return i < len(s) && s[i].First <= uid
}

// Count is how many UIDs are in s.
func (s UIDSet) Count() int {
	n := 0
	for _, r := range s {
		n += int(r.Last-r.First) + 1
	}
	return n
}

// AppendBinary adds s to b: the number of ranges, then for each the distance
// from the one before and its length. DecodeUIDSet reads it.
func (s UIDSet) AppendBinary(b []byte) []byte { return s.append(b) }

func (s UIDSet) append(b []byte) []byte {
	b = appendUint(b, uint64(len(s)))
	var at uint32
	for _, r := range s {
		b = appendUint(b, uint64(r.First-at))
		b = appendUint(b, uint64(r.Last-r.First))
		at = r.Last
	}
	return b
}

// DecodeUIDSet reads what AppendBinary wrote, and nothing behind it.
func DecodeUIDSet(b []byte) (UIDSet, error) {
	r := reader{b: b}
	s := r.uidSet()
	if r.err == nil && len(r.b) > 0 {
		r.fail("octets behind a UID set")
	}
	if r.err != nil {
		return nil, r.err
	}
	return s, nil
}

func (r *reader) uidSet() UIDSet {
	n := r.count(MaxRanges, 2)
	if n == 0 {
		return nil
	}
	s := make(UIDSet, n)
	var at uint64
	for i := range s {
		gap, length := r.uint(), r.uint()
		first := at + gap
		last := first + length
		// A range starts at 1 or above and leaves a gap to the one before.
		if gap > 1<<32 || length > 1<<32 || last >= 1<<32 || gap == 0 || i > 0 && gap == 1 {
			r.fail("UID set")
			return nil
		}
		s[i] = Range{uint32(first), uint32(last)}
		at = last
	}
	return s
}

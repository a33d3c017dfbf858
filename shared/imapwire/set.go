package imapwire

import (
	"slices"
	"strconv"
)

// A Range is the numbers from Start to Stop; 0 stands for "*".
type Range struct {
	Start, Stop uint32
}

// A Set is a sequence set as a client wrote it (RFC 9051 sequence-set), or
// "$", the saved result of a search (RFC 5182).
type Set struct {
	Ranges []Range
	Saved  bool
}

// Set takes a sequence set.
func (p *Parser) Set() Set {
	if p.Has('$') {
		return Set{Saved: true}
	}
	var s Set
	for p.Element() {
		r := Range{Start: p.setNumber()}
		r.Stop = r.Start
		if p.Has(':') {
			r.Stop = p.setNumber()
		}
		s.Ranges = append(s.Ranges, r)
		if !p.Has(',') {
			break
		}
	}
	if !p.ok() {
		return Set{}
	}
	return s
}

func (p *Parser) setNumber() uint32 {
	if p.Has('*') {
		return 0
	}
	if !isDigit(p.Peek()) {
		p.Fail("sequence set expected")
		return 0
	}
	return p.NZNumber()
}

// Resolve returns s as ascending ranges that neither touch nor overlap, with
// "*" as last, the largest number in use. When last is 0 (an empty mailbox)
// "*" stands for nothing and a range with it ends at its other number.
func (s Set) Resolve(last uint32) []Range {
	out := make([]Range, 0, len(s.Ranges))
	for _, r := range s.Ranges {
		if r.Start == 0 {
			r.Start = last
		}
		if r.Stop == 0 {
			r.Stop = last
		}
		if r.Start > r.Stop {
			r.Start, r.Stop = r.Stop, r.Start
		}
		if r.Start == 0 {
			if r.Stop == 0 {
				continue
			}
			r.Start = r.Stop
		}
		out = append(out, r)
	}
	return Merge(out)
}

// Merge sorts ranges in place and joins those that touch or overlap.
func Merge(ranges []Range) []Range {
	if len(ranges) < 2 {
		return ranges
	}
	slices.SortFunc(ranges, func(a, b Range) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	n := 0
	for _, r := range ranges[1:] {
		if last := &ranges[n]; uint64(r.Start) <= uint64(last.Stop)+1 {
			last.Stop = max(last.Stop, r.Stop)
			continue
		}
		n++
		ranges[n] = r
	}
	return ranges[:n+1]
}

// Contains reports whether n is in ranges, which Resolve or Merge made.
func Contains(ranges []Range, n uint32) bool {
	lo, hi := 0, len(ranges)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if ranges[mid].Stop < n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(ranges) && ranges[lo].Start <= n
}

// AppendSet writes numbers as a sequence set, in the order given, with runs
// that ascend by one joined. There is no spelling for the empty set: callers
// do not write one.
func AppendSet(dst []byte, numbers []uint32) []byte {
	for i := 0; i < len(numbers); {
		j := i + 1
		for j < len(numbers) && numbers[j] == numbers[j-1]+1 {
			j++
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(numbers[i]), 10)
		if j-i > 1 {
			dst = append(dst, ':')
			dst = strconv.AppendUint(dst, uint64(numbers[j-1]), 10)
		}
		i = j
	}
	return dst
}

// AppendRanges writes ranges that hold no "*".
func AppendRanges(dst []byte, ranges []Range) []byte {
	for i, r := range ranges {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(r.Start), 10)
		if r.Stop != r.Start {
			dst = append(dst, ':')
			dst = strconv.AppendUint(dst, uint64(r.Stop), 10)
		}
	}
	return dst
}

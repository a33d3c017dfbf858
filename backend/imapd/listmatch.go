package imapd

import "strings"

// matchName reports whether a mailbox name fits a pattern of LIST: "*" stands
// for anything, "%" for anything within a level. INBOX fits in any case. Its
// time is bounded by the product of both lengths.
func matchName(name, pattern string) bool {
	if len(pattern)-strings.Count(pattern, "*")-strings.Count(pattern, "%") > len(name) {
		return false
	}
	fold := 0 // octets that compare without case
	if top, _, _ := strings.Cut(name, "/"); top == "INBOX" {
		fold = len(top)
	}
	// Where to go on when a wildcard must take more: of the last "*", and of
	// the last "%" behind it.
	starPattern, starName := -1, 0
	percentPattern, percentName := -1, 0
	i, j := 0, 0
	for i < len(name) || j < len(pattern) {
		if j < len(pattern) {
			switch c := pattern[j]; {
			case c == '*':
				starPattern, starName = j, i
				percentPattern = -1
				j++
				continue
			case c == '%':
				percentPattern, percentName = j, i
				j++
				continue
			case i < len(name) && (name[i] == c || i < fold && lower(name[i]) == lower(c)):
				i++
				j++
				continue
			}
		}
		switch {
		case percentPattern >= 0 && percentName < len(name) && name[percentName] != '/':
			percentName++
			i, j = percentName, percentPattern+1
		case starPattern >= 0 && starName < len(name):
			starName++
			i, j = starName, starPattern+1
			percentPattern = -1
		default:
			return false
		}
	}
	return true
}

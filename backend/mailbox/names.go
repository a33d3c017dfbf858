package mailbox

import (
	"strings"
	"unicode/utf8"
)

// Limits of names.
const (
	maxName    = 500 // octets of a mailbox name
	maxDepth   = 50  // levels of a mailbox name
	maxAccount = 320 // octets of an account name
	maxKeyword = 128 // octets of a keyword
)

// cleanName returns a mailbox name as it is stored: INBOX in this spelling, at
// the top level and as the top of its children (RFC 9051 5.1). "" stays "".
func cleanName(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if len(name) > maxName || !utf8.ValidString(name) || strings.Count(name, "/") >= maxDepth {
		return "", ErrBadName
	}
	for _, r := range name {
		// Controls, and the line separators that some clients take for them.
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return "", ErrBadName
		}
	}
	for level := range strings.SplitSeq(name, "/") {
		if level == "" {
			return "", ErrBadName
		}
	}
	top, rest, below := strings.Cut(name, "/")
	if !strings.EqualFold(top, "INBOX") {
		return name, nil
	}
	if !below {
		return "INBOX", nil
	}
	return "INBOX/" + rest, nil
}

// mailboxName is cleanName for a place where there must be one.
func mailboxName(name string) (string, error) {
	if name == "" {
		return "", ErrBadName
	}
	return cleanName(name)
}

// accountName returns an account's name, uid@domain, as it is stored: in lower
// case, since the directory's attributes compare without case. ErrBadName when
// it cannot be one.
func accountName(name string) (string, error) {
	if name == "" || len(name) > maxAccount || !utf8.ValidString(name) {
		return "", ErrBadName
	}
	for i := 0; i < len(name); i++ {
		if name[i] <= ' ' || name[i] == 0x7f {
			return "", ErrBadName
		}
	}
	return strings.ToLower(name), nil
}

// validKeywords reports whether the names can be keywords: atoms (RFC 9051 9)
// of a bounded length.
func validKeywords(names []string) bool {
	if len(names) > MaxKeywords {
		return false
	}
	for _, name := range names {
		if name == "" || len(name) > maxKeyword {
			return false
		}
		for i := 0; i < len(name); i++ {
			if name[i] <= ' ' || name[i] >= 0x7f || strings.IndexByte(`(){%*"\]`, name[i]) >= 0 {
				return false
			}
		}
	}
	return true
}

package directory

import "strings"

// Status is the state of a domain or entry, and of its mail service.
type Status uint8

// The statuses, as their attributes spell them in lower case.
const (
	Active    Status = iota
	Inactive         // refused for now
	Disabled         // refused; mail level only
	Deleted          // refused, the mailbox will be purged
	Removed          // refused, the mailbox is gone; mail level only
	Hold             // accepted and kept on the relay; mail level only
	OverQuota        // refused until the mailbox shrinks; mail level, not groups
	Unused           // no mail service; mail level only
)

var statusNames = [...]string{"active", "inactive", "disabled", "deleted", "removed", "hold", "overquota", "unused"}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "inactive"
}

// Level says whose attribute a status comes from, in the order of evaluation.
type Level uint8

// The four levels.
const (
	LevelDomain     Level = iota // inetDomainStatus
	LevelDomainMail              // mailDomainStatus
	LevelEntry                   // inetUserStatus, and of groups what the site has instead
	LevelEntryMail               // mailUserStatus, inetMailGroupStatus
)

func (l Level) mail() bool { return l == LevelDomainMail || l == LevelEntryMail }

// ParseStatus reads the value of a status attribute. A missing value is
// active; a word that is unknown, or not legal at that level, is inactive, and
// ok is false.
func ParseStatus(value string, l Level, k Kind) (s Status, ok bool) {
	value = strings.TrimSpace(value)
	if value == "" {
		return Active, true
	}
	for i, name := range statusNames {
		if !strings.EqualFold(value, name) {
			continue
		}
		s = Status(i)
		switch s {
		case Active, Inactive, Deleted:
			return s, true
		case OverQuota:
			if l.mail() && k != Group {
				return s, true
			}
		default:
			if l.mail() {
				return s, true
			}
		}
	}
	return Inactive, false
}

// Effective returns the status that decides about e in d: the first of the
// four levels that is not active. d or e may be nil.
func Effective(d *Domain, e *Entry) (Status, Level) {
	if d != nil {
		if d.Status != Active {
			return d.Status, LevelDomain
		}
		if d.MailStatus != Active {
			return d.MailStatus, LevelDomainMail
		}
	}
	if e != nil {
		if e.Status != Active {
			return e.Status, LevelEntry
		}
		if e.MailStatus != Active {
			return e.MailStatus, LevelEntryMail
		}
	}
	return Active, LevelDomain
}

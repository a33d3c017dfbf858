package directory

import (
	"context"
	"errors"
	"iter"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/postern-mail/postern/shared/mail"
)

// Answers that are not entries. Every other error of a Directory is temporary.
var (
	// ErrNotFound is the clean answer that nothing matches.
	ErrNotFound = errors.New("directory: not found")
	// ErrAmbiguous is the clean answer that more than one entry matches where
	// only one may.
	ErrAmbiguous = errors.New("directory: more than one entry matches")
	// ErrBadPassword is the clean answer that the password is wrong, or that
	// the entry has none.
	ErrBadPassword = errors.New("directory: wrong password")
)

// Temporary failures that callers may want to tell apart in logs and metrics.
var (
	// ErrUnavailable says that no server could be asked.
	ErrUnavailable = errors.New("directory: no server available")
	// ErrTooMany says that a search has more results than the caller takes.
	ErrTooMany = errors.New("directory: too many results")
	// ErrURL says that an LDAP URL is malformed or leads outside the
	// configured servers and bases.
	ErrURL = errors.New("directory: unusable LDAP URL")
)

// Directory answers questions about domains, users and groups. Its methods may
// be called from many goroutines at once. What they return is shared and must
// not be changed.
type Directory interface {
	// Domain finds a hosted domain by its canonical name or one of its
	// aliases; where that is configured, by the name of a subdomain or of a
	// vanity domain too (see Domain.Parent and Domain.Vanity). name is in the form of NormalizeDomain. ErrNotFound: the domain
	// is not ours. ErrAmbiguous: two organisations claim it, a fault of the
	// directory.
	Domain(ctx context.Context, name string) (*Domain, error)

	// Lookup finds the entries of d that own the address a, whose domain is
	// the name by which d was found. The whole local part is tried first, then
	// the part before the first subaddress separator, with "+*" and without, as
	// Schema.Subaddress says; one search covers all.
	// Then the owners of "@domain" have it. ErrNotFound when there is none: what
	// Domain.CatchAll and Domain.SmartHost say then is the caller's business.
	Lookup(ctx context.Context, d *Domain, a mail.Address) (*Answer, error)

	// Login finds the user that a person logs in as: a uid of the default
	// domain, uid and domain joined by the domain's separator, or a mail
	// address. A uid wins over an address. The entry has Domain and Mailbox
	// set. Whether the user may log in is Entry.MayLogin.
	Login(ctx context.Context, login string) (*Entry, error)

	// Entry reads one entry by its distinguished name.
	Entry(ctx context.Context, dn string) (*Entry, error)

	// Groups are those groups of e's domain that have e as a member by its name, by
	// that of an entry above it, or by an address; not by a URL or by way of another
	// group. e has its Domain, as Login sets it.
	Groups(ctx context.Context, e *Entry) (*Groups, error)

	// Search gives the entries an LDAP URL (RFC 4516) selects, one after the
	// other, at most limit of them: it holds some hundred at a time, however
	// many there are. An error comes last and alone, and says that those before
	// it are not the whole answer: ErrTooMany when there are more, ErrURL when the URL leaves the configured servers and bases,
	// ErrNotFound when its name does not exist, or a temporary one. Whoever
	// stops early, or whose ctx ends, ends the search.
	Search(ctx context.Context, url string, limit int) iter.Seq2[*Entry, error]

	// Authenticate checks the password of e, by an LDAP bind. nil, or
	// ErrBadPassword; an empty password is always wrong (RFC 4513 5.1.2).
	Authenticate(ctx context.Context, e *Entry, password string) error
}

// MaxGroups is how many groups of one entry are told of.
const MaxGroups = 32

// Groups are the groups that somebody is a member of.
type Groups struct {
	Addresses []string // all that they have in the domain
	More      bool     // there are more of them than MaxGroups, or than a server tells
}

// Collect is all that a search gives, or its error and nothing.
func Collect(found iter.Seq2[*Entry, error]) ([]*Entry, error) {
	var list []*Entry
	for e, err := range found {
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// Answer is what an address leads to.
type Answer struct {
	// Entries own the address, all of them by the whole local part, all of them
	// by "user+*", or all of them by the part before Detail. Entries of other object classes than
	// those of Schema are not among them.
	Entries []*Entry
	// Detail is the subaddress: what follows the separator when the whole
	// local part belongs to nobody. Use DetailOf: an answer from a cache may
	// have been asked for in another case.
	Detail string
	// CatchAll says that the address is nobody's and the entries own "@domain".
	CatchAll bool
}

// DetailOf is the subaddress of a, for which this is the answer, as a spells it.
func (ans *Answer) DetailOf(a mail.Address) string {
	return a.Local[len(a.Local)-min(len(ans.Detail), len(a.Local)):]
}

// NormalizeDomain returns name in the form that domains are compared in:
// lower case, without a final dot, in A-labels (RFC 5890). It does not allocate
// when name is already in that form.
func NormalizeDomain(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	plain := true
	for i := 0; i < len(name); i++ {
		if c := name[i]; c >= 0x80 || c >= 'A' && c <= 'Z' {
			plain = false
			break
		}
	}
	if plain {
		return name, nil
	}
	if !utf8.ValidString(name) {
		return "", errors.New("directory: domain is not UTF-8")
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err == nil {
		return ascii, nil
	}
	// Names that IDNA refuses but the DNS and mail know, with underscores or
	// hyphens in odd places, only need the case folded.
	for i := 0; i < len(name); i++ {
		if name[i] >= 0x80 {
			return "", err
		}
	}
	return strings.ToLower(name), nil
}

// SplitDetail cuts a local part at the first separator. ok is false when there
// is none, or nothing before it.
func SplitDetail(local, separator string) (base, detail string, ok bool) {
	if separator == "" {
		return local, "", false
	}
	i := strings.Index(local, separator)
	if i <= 0 {
		return local, "", false
	}
	return local[:i], local[i+len(separator):], true
}

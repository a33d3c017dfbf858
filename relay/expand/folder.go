package expand

import (
	"cmp"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Bounds of the identities that a pair is told, and of the octets of one.
const (
	maxPoster     = 32
	maxIdentifier = 320
)

// folder says who posts to r's folder, which is in the mailbox of e. Whether that
// is there and takes the mail only the pair knows (directory.md 4.7).
func (w *walk) folder(r *mail.Recipient, e *directory.Entry) error {
	r.Poster = nil
	if r.Folder == "" || strings.EqualFold(r.Folder, "INBOX") {
		return nil
	}
	if w.env == nil || w.env.AuthUser == "" {
		if w.trace != nil {
			w.rule(r.Address, e.DN, "4.7", "", "folder "+r.Folder+", if the pair finds it and anyone has the right p there; else INBOX", nil)
		}
		return nil
	}
	if w.poster == nil {
		s, err := w.sender(*r, true)
		if err != nil {
			return err
		}
		w.poster = s.identities(w.env.AuthUser)
	}
	r.Poster = w.poster
	if w.trace != nil {
		w.rule(r.Address, e.DN, "4.7", "aclGroupAddr", "folder "+r.Folder+", if the pair finds it and the right p there is anyone's or that of "+
			strings.Join(r.Poster, ", ")+", and none of theirs is taken away; else INBOX", nil)
	}
	return nil
}

// anyoneAt begins the identity that all accounts of a domain have.
const anyoneAt = "anyone@"

// identities are what a list of rights can call s, who has logged in as login: the
// account, the addresses, anyone of the account's and the mail address's domain,
// and the groups of aclGroupAddr. Those that decide most often come first.
func (s *sender) identities(login string) []string {
	var out []string
	var more bool
	add := func(ids ...string) {
		for _, id := range ids {
			switch {
			case slices.Contains(out, id):
			case len(out) == maxPoster:
				more = true
			default:
				out = append(out, id)
			}
		}
	}
	e := s.entry
	if e == nil {
		e = &directory.Entry{}
	}
	names := identifiers(cmp.Or(e.Mailbox, login), e.Mail)
	add(names...)
	for _, name := range names {
		if at := strings.LastIndexByte(name, '@'); at > 0 {
			add(anyoneAt + name[at+1:])
		}
	}
	add(identifiers(e.ACLGroups...)...)
	add(identifiers(e.Alternate...)...)
	add(identifiers(e.Equivalent...)...)
	if more {
		out = append(out, mail.MoreIdentities)
	}
	return out
}

// identifiers are the values of an entry that can be one in a list of rights, as
// they are there.
func identifiers(values ...string) (out []string) {
	for _, id := range values {
		id = strings.ToLower(strings.TrimSpace(id))
		id = strings.TrimPrefix(id, "group=")
		if id != "" && len(id) <= maxIdentifier && !strings.HasPrefix(id, "@") && !strings.HasPrefix(id, "-") && !strings.HasPrefix(id, anyoneAt) {
			out = append(out, id)
		}
	}
	return out
}

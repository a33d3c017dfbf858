package expand

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// maxPoster bounds the identities that a pair is told.
const maxPoster = 32

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
			strings.Join(r.Poster, ", ")+"; else INBOX", nil)
	}
	return nil
}

// identities are what a list of rights can call s, who has logged in as login: the
// account, the addresses, and the groups of aclGroupAddr. Those that decide most
// often come first.
func (s *sender) identities(login string) []string {
	ids := []string{login}
	if e := s.entry; e != nil {
		if e.Mailbox != "" {
			ids[0] = e.Mailbox
		}
		ids = append(ids, e.Mail)
		ids = append(ids, e.ACLGroups...)
		ids = append(ids, e.Alternate...)
		ids = append(ids, e.Equivalent...)
	}
	out := make([]string, 0, min(len(ids), maxPoster))
	for _, id := range ids {
		id = strings.ToLower(strings.TrimSpace(id))
		id = strings.TrimPrefix(id, "group=")
		if id != "" && !strings.HasPrefix(id, "@") && !slices.Contains(out, id) && len(out) < maxPoster {
			out = append(out, id)
		}
	}
	return out
}

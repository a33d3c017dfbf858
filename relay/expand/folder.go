package expand

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"

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
		in, err := w.groups(s)
		if err != nil {
			return w.unknown(r.Address, err)
		}
		w.poster = s.identities(w.env.AuthUser, in)
	}
	r.Poster = w.poster
	if w.trace != nil {
		w.rule(r.Address, e.DN, "4.7", "aclGroupAddr", "folder "+r.Folder+", if the pair finds it and the right p there is anyone's or that of "+
			strings.Join(r.Poster, ", ")+", and none of theirs is taken away; else INBOX", nil)
	}
	return nil
}

// asking is a question for groups that is on its way.
type asking struct {
	done   chan struct{}
	groups *directory.Groups
	err    error
}

func askGroups(ctx context.Context, d directory.Directory, e *directory.Entry) *asking {
	q := &asking{done: make(chan struct{})}
	go func() {
		defer close(q.done)
		q.groups, q.err = d.Groups(ctx, e)
	}()
	return q
}

// beside asks for the groups of who posts, if a may be the address of a folder and
// they are not known: a's entry is looked up meanwhile, so that both are one round
// trip to the directory. besides takes the answer.
func (w *walk) beside(a mail.Address) *asking {
	if !w.x.cfg.Groups || w.trace != nil || w.in != nil || w.env == nil || w.env.AuthUser == "" {
		return nil
	}
	if _, _, ok := directory.SplitDetail(a.Local, w.x.cfg.Separator); !ok {
		return nil
	}
	s, err := w.sender(mail.Recipient{Address: a}, true)
	if err != nil || s.entry == nil { // which folder finds out, if there is one
		return nil
	}
	return askGroups(w.ctx, w.x.cfg.Directory, s.entry)
}

func (w *walk) besides(q *asking) {
	if q != nil {
		<-q.done
		w.in, w.inErr = inTime(q.groups, q.err)
	}
}

// inTime is what is known of groups: that there may be some, when the directory
// takes too long for them. Who has no index waits for no mail then.
func inTime(g *directory.Groups, err error) (*directory.Groups, error) {
	if directory.FaultOf(err) == "slow" {
		return &directory.Groups{More: true}, nil
	}
	return g, err
}

// groups are those that have s as a member.
func (w *walk) groups(s *sender) (*directory.Groups, error) {
	if w.in == nil && w.inErr == nil {
		w.in = &directory.Groups{}
		if w.x.cfg.Groups && s.entry != nil {
			w.in, w.inErr = inTime(w.x.cfg.Directory.Groups(w.ctx, s.entry))
		}
	}
	return w.in, w.inErr
}

// anyoneAt begins the identity that all accounts of a domain have.
const anyoneAt = "anyone@"

// identities are what a list of rights can call s, who has logged in as login: the
// account, the addresses, anyone of the account's and the mail address's domain,
// and the groups, of aclGroupAddr and by their own entries. Those that decide most
// often come first.
func (s *sender) identities(login string, groups *directory.Groups) []string {
	var out []string
	more := groups.More
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
	names := identifiers(e.Mail)
	if account := foldIdentity(cmp.Or(e.Mailbox, login)); account != mail.MoreIdentities {
		names = append([]string{account}, names...) // whatever it is called: by it the owner is known
	}
	add(names...)
	for _, name := range names {
		if at := strings.LastIndexByte(name, '@'); at > 0 {
			add(anyoneAt + name[at+1:])
		}
	}
	add(identifiers(e.ACLGroups...)...)
	add(identifiers(groups.Addresses...)...)
	add(identifiers(e.Alternate...)...)
	add(identifiers(e.Equivalent...)...)
	if more {
		out = append(out, mail.MoreIdentities)
	}
	return out
}

// foldIdentity spells an identity as the pair reads it.
func foldIdentity(id string) string {
	return norm.NFKC.String(strings.ToLower(norm.NFKC.String(strings.TrimSpace(id))))
}

// identifiers are the values of an entry that can be one in a list of rights, as
// they are there.
func identifiers(values ...string) (out []string) {
	for _, id := range values {
		id = strings.TrimPrefix(foldIdentity(id), "group=")
		if id != "" && len(id) <= maxIdentifier && !strings.HasPrefix(id, "@") && !strings.HasPrefix(id, "-") && !strings.HasPrefix(id, anyoneAt) {
			out = append(out, id)
		}
	}
	return out
}

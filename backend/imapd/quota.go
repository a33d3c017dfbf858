package imapd

import (
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
	"github.com/postern-mail/postern/shared/mail"
)

// quotaRoot is the one quota root that an account has: all of its mailboxes. There
// is none without a limit (RFC 9208 4.2).
const quotaRoot = ""

// limited reports whether there is a quota at all.
func limited(q *mail.Quota) bool { return q.Bytes >= 0 || q.Messages >= 0 }

// getQuota is GETQUOTA (RFC 9208 4.1.2).
func (s *session) getQuota() error {
	p := &s.p
	p.SP()
	root := string(p.AString())
	if err := p.End(); err != nil {
		return err
	}
	bytes, messages, limit, err := s.account.Quota(s.ctx)
	if err != nil {
		return err
	}
	if root != quotaRoot || !limited(&limit) {
		return no("NONEXISTENT", "No such quota root")
	}
	s.writeQuota(bytes, messages, &limit)
	return nil
}

// getQuotaRoot is GETQUOTAROOT (RFC 9208 4.1.3).
func (s *session) getQuotaRoot() error {
	p := &s.p
	p.SP()
	name, nameErr := s.mailboxName("NONEXISTENT")
	if err := p.End(); err != nil {
		return err
	}
	if nameErr != nil {
		return nameErr
	}
	if _, err := s.account.Status(s.ctx, name); err != nil {
		return err
	}
	bytes, messages, limit, err := s.account.Quota(s.ctx)
	if err != nil {
		return err
	}
	s.w.WriteString("* QUOTAROOT ")
	s.writeName(name)
	if !limited(&limit) {
		s.w.WriteString("\r\n")
		return nil
	}
	s.w.B = imapwire.AppendAString(append(s.w.B, ' '), quotaRoot, s.wide())
	s.w.WriteString("\r\n")
	s.writeQuota(bytes, messages, &limit)
	return nil
}

// writeQuota writes the resources that have a limit. STORAGE is in units of 1,024
// octets: what is used is rounded up, so that a full account does not look as
// though there were room.
func (s *session) writeQuota(bytes, messages int64, limit *mail.Quota) {
	b := imapwire.AppendAString(append(s.w.B, "* QUOTA "...), quotaRoot, s.wide())
	open := len(b) + 1
	b = append(b, ' ')
	resource := func(name string, used, most int64) {
		b = append(append(append(b, ' '), name...), ' ')
		b = imapwire.AppendNumber(append(imapwire.AppendNumber(b, used), ' '), most)
	}
	if limit.Bytes >= 0 {
		resource("STORAGE", (bytes+1023)/1024, limit.Bytes/1024)
	}
	if limit.Messages >= 0 {
		resource("MESSAGE", messages, limit.Messages)
	}
	b[open] = '('
	s.w.B = append(b, ")\r\n"...)
}

// setQuota is SETQUOTA (RFC 9208 4.1.4): limits are the directory's, and no client's.
func (s *session) setQuota() error {
	p := &s.p
	p.SP()
	p.AString()
	p.SP()
	p.List(func() { // perhaps of nothing
		p.Atom()
		p.SP()
		p.Number64()
	})
	if err := p.End(); err != nil {
		return err
	}
	return no("NOPERM", "Quotas are set in the directory")
}

// deletedStorage is the size of what an EXPUNGE would remove (DELETED-STORAGE of
// RFC 9208). It reads the rows of a mailbox that has any.
func (s *session) deletedStorage(info *mailbox.Info) (n int64, err error) {
	if info.Deleted == 0 {
		return 0, nil
	}
	v, err := s.account.Open(s.ctx, info.Name, true)
	if err != nil {
		return 0, err
	}
	defer v.Close()
	seqs := make([]int, v.Len())
	for i := range seqs {
		seqs[i] = i + 1
	}
	err = v.Rows(s.ctx, seqs, func(_ int, row *mailbox.Row) error {
		if row.Flags&mailbox.FlagDeleted != 0 {
			n += row.Size
		}
		return nil
	})
	return n, err
}

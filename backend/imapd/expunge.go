package imapd

import "github.com/postern-mail/postern/shared/imapwire"

// expunge is EXPUNGE and UID EXPUNGE (RFC 4315 2.1). What was removed is told
// with the other changes before the tagged answer.
func (s *session) expunge() error {
	p := &s.p
	var uids []uint32
	if s.uid {
		p.SP()
		set := p.Set()
		if err := p.End(); err != nil {
			return err
		}
		ranges, err := s.resolve(set, true)
		if err != nil {
			return err
		}
		uids = s.uids(ranges)
	} else if err := p.End(); err != nil {
		return err
	}
	if _, err := s.view.Expunge(s.ctx, uids, false); err != nil {
		return err
	}
	if s.qresync {
		if err := s.update(true, true); err != nil {
			return err
		}
		s.code = string(append(imapwire.AppendNumber([]byte("[HIGHESTMODSEQ "), s.view.Info().HighestModSeq), ']'))
	}
	return nil
}

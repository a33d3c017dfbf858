package mailbox

import (
	"context"

	"github.com/postern-mail/postern/backend/command"
)

// Append adds messages to the mailbox called name, all or none, and returns
// their UIDs in the order of msgs.
func (a *Account) Append(ctx context.Context, name string, msgs []AppendMessage) (uidValidity uint32, uids []uint32, err error) {
	if name, err = mailboxName(name); err != nil {
		return 0, nil, ErrNoMailbox
	}
	if len(msgs) > command.MaxMessages {
		return 0, nil, ErrLimit
	}
	s := a.s
	var total int64
	for i := range msgs {
		size := int64(len(msgs[i].Bytes))
		switch {
		case size > s.cfg.MaxMessage:
			return 0, nil, ErrTooBig
		case !validKeywords(msgs[i].Keywords):
			return 0, nil, ErrLimit
		}
		total += size
	}
	release, err := s.take(total + entryCost)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	c := &command.AppendMessages{Head: s.head(), Account: a.id, Name: name, Messages: make([]command.Appended, len(msgs))}
	data, err := s.appendEntry(ctx, c, msgs, total)
	if err != nil {
		return 0, nil, err
	}
	answer, _, err := proposeEntry[*command.AppendedTo](ctx, s, data)
	if err == nil {
		err = codeError(answer.Code)
	}
	if err != nil {
		return 0, nil, err
	}
	uids = make([]uint32, len(msgs))
	for i := range uids {
		uids[i] = answer.FirstUID + uint32(i)
	}
	return answer.UIDValidity, uids, nil
}

// appendEntry is the entry of c, which gets its messages. When all of them do
// not fit the entry, those that are not small go before it in parts.
func (s *Service) appendEntry(ctx context.Context, c *command.AppendMessages, msgs []AppendMessage, total int64) ([]byte, error) {
	tail := int64(0)
	inline := make([]bool, len(msgs))
	for i := range msgs {
		in, out := &msgs[i], &c.Messages[i]
		out.Message = newMessage(in.Bytes)
		out.Flags, out.Keywords, out.InternalDate = uint64(in.Flags), in.Keywords, c.Time
		if !in.InternalDate.IsZero() {
			out.InternalDate = in.InternalDate.UnixNano()
		}
		size := int64(len(in.Bytes))
		inline[i] = total <= command.MaxPart || tail+size <= command.MaxPart
		switch {
		case size == 0:
		case inline[i]:
			out.Message.Body = []command.Extent{{Off: uint32(tail), Len: uint32(size)}}
			tail += size
		default:
			var err error
			if out.Message.Body, err = s.parts(ctx, in.Bytes); err != nil {
				return nil, err
			}
		}
	}
	meta := 0
	for i := range c.Messages {
		meta += len(c.Messages[i].Message.Meta) + 24*len(c.Messages[i].Message.Body) + 128
	}
	data := command.AppendHead(make([]byte, 0, entryCost+meta+int(tail)), c, int(tail))
	for i := range msgs {
		if inline[i] {
			data = append(data, msgs[i].Bytes...)
		}
	}
	return data, nil
}

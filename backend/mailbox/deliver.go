package mailbox

import (
	"context"
	"crypto/sha256"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// partsInFlight is how many part entries of one message are proposed at once.
const partsInFlight = 8

// Deliver stores one message and adds it to each recipient's mailbox. Over 500
// recipients go in several entries; the octets are written once.
func (s *Service) Deliver(ctx context.Context, d *Delivery) ([]DeliveryResult, error) {
	if int64(len(d.Message)) > s.cfg.MaxMessage {
		return nil, ErrTooBig
	}
	release, err := s.take(int64(len(d.Message)) + 512)
	if err != nil {
		return nil, err
	}
	defer release()
	msg := newMessage(d.Message)
	tail := d.Message
	if len(tail) > command.MaxPart {
		if msg.Body, err = s.parts(ctx, d.Message); err != nil {
			return nil, err
		}
		tail = nil
	} else if len(tail) > 0 {
		msg.Body = []command.Extent{{Len: uint32(len(tail))}}
	}
	results := make([]DeliveryResult, len(d.Recipients))
	for at := 0; at < len(results); {
		end := min(at+command.MaxRecipients, len(results))
		c := &command.Deliver{
			Head: s.head(), Seed: s.seed(), KeyLife: int64(s.cfg.KeyLife),
			InternalDate: d.Arrival.UnixNano(), Message: msg, Recipients: recipientsOf(d.Recipients[at:end]),
		}
		if d.Arrival.IsZero() {
			c.InternalDate = c.Time
		}
		entry := command.AppendHead(make([]byte, 0, 256+len(msg.Meta)+len(tail)+96*(end-at)), c, len(tail))
		off := len(entry)
		entry = append(entry, tail...)
		answer, index, err := proposeEntry[*command.Delivered](ctx, s, entry)
		if err != nil && at == 0 {
			return nil, err
		}
		for i := at; i < end; i++ {
			if err != nil { // an earlier entry is committed: these are unknown
				results[i].Err = fmt.Errorf("%w: %w", ErrUnknownState, err)
				continue
			}
			results[i] = resultOf(&answer.Recipients[i-at])
		}
		if err == nil && at == 0 {
			msg.ID = answer.Message
			for i := range msg.Body {
				if msg.Body[i].Index == 0 {
					msg.Body[i].Index, msg.Body[i].Off = index, uint32(off)
				}
			}
			tail = nil
		}
		at = end
	}
	return results, nil
}

// newMessage describes a message: its hash, structure and envelope.
func newMessage(b []byte) command.Message {
	m := command.Message{Size: int64(len(b)), Meta: message.Parse(b).AppendBinary(nil)}
	sum := sha256.Sum256(b)
	copy(m.Hash[:], sum[:])
	return m
}

// parts writes a large message as part entries and returns where they are.
func (s *Service) parts(ctx context.Context, b []byte) ([]command.Extent, error) {
	n := (len(b) + command.MaxPart - 1) / command.MaxPart
	at := make([]command.Extent, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsInFlight)
	for i := range n {
		piece := b[i*command.MaxPart : min((i+1)*command.MaxPart, len(b))]
		g.Go(func() error {
			entry := command.AppendHead(make([]byte, 0, 64+len(piece)), &command.Part{Head: s.head()}, len(piece))
			off := len(entry)
			_, index, err := proposeEntry[*command.Done](ctx, s, append(entry, piece...))
			at[i] = command.Extent{Index: index, Off: uint32(off), Len: uint32(len(piece))}
			return err
		})
	}
	return at, g.Wait()
}

func recipientsOf(in []DeliveryRecipient) []command.Recipient {
	out := make([]command.Recipient, len(in))
	for i := range in {
		r := &in[i]
		out[i] = command.Recipient{
			Account: r.Account, Folder: r.Folder, Create: r.Create, Force: r.Force,
			Key: command.Key(r.Key), Flags: uint64(r.Flags),
		}
		if !validAccount(r.Account) {
			out[i].Account = ""
		}
		if name, err := cleanName(r.Folder); err != nil {
			out[i].Folder = "" // INBOX: a folder that cannot exist does not
		} else {
			out[i].Folder = name
		}
		if q := r.Quota; q != nil {
			out[i].Limit = &command.Limit{Bytes: q.Bytes, Messages: q.Messages, Stamp: q.Stamp}
		}
	}
	return out
}

func resultOf(to *command.DeliveredTo) DeliveryResult {
	r := DeliveryResult{Duplicate: to.Duplicate, Mailbox: to.Mailbox, UIDValidity: to.UIDValidity, UID: to.UID}
	fail := func(code int, status mail.Status, text string, err error) {
		r.Err = &mail.Error{Op: "mailbox.Deliver", Code: code, Status: status, Reply: text, Err: err}
	}
	switch to.Code {
	case command.OK:
	case command.OverQuota:
		fail(452, mail.StatusOverQuota, "Mailbox full", ErrOverQuota)
	case command.QuotaZero:
		fail(552, mail.Status{5, 2, 2}, "Mailbox may hold no mail", ErrOverQuota)
	case command.AtLimit:
		fail(452, mail.StatusOverQuota, "Mailbox at its limit", ErrLimit)
	case command.KeyMismatch: // our own fault: never bounced
		fail(451, mail.StatusNotServing, "Delivery refused, see the log", ErrKeyMismatch)
	default:
		r.Err = codeError(to.Code)
	}
	return r
}

// Append adds messages to the mailbox called name, all or none, and returns
// their UIDs in the order of msgs.
func (a *Account) Append(ctx context.Context, name string, msgs []AppendMessage) (uidValidity uint32, uids []uint32, err error) {
	if name, err = cleanName(name); err != nil {
		return 0, nil, err
	}
	if len(msgs) > command.MaxMessages {
		return 0, nil, ErrLimit
	}
	s := a.s
	var total int64
	for i := range msgs {
		if int64(len(msgs[i].Bytes)) > s.cfg.MaxMessage {
			return 0, nil, ErrTooBig
		}
		total += int64(len(msgs[i].Bytes))
	}
	release, err := s.take(total + 512)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	c := &command.AppendMessages{Head: s.head(), Account: a.id, Name: name, Messages: make([]command.Appended, len(msgs))}
	var tail []byte
	for i := range msgs {
		in, out := &msgs[i], &c.Messages[i]
		out.Message = newMessage(in.Bytes)
		out.Flags, out.Keywords, out.InternalDate = uint64(in.Flags), in.Keywords, in.InternalDate.UnixNano()
		if in.InternalDate.IsZero() {
			out.InternalDate = c.Time
		}
		switch {
		case len(in.Bytes) == 0:
		case len(msgs) == 1 && total <= command.MaxPart:
			out.Message.Body = []command.Extent{{Len: uint32(total)}}
			tail = in.Bytes
		case total <= command.MaxPart:
			out.Message.Body = []command.Extent{{Off: uint32(len(tail)), Len: uint32(len(in.Bytes))}}
			tail = append(tail, in.Bytes...)
		default:
			if out.Message.Body, err = s.parts(ctx, in.Bytes); err != nil {
				return 0, nil, err
			}
		}
	}
	entry := command.AppendHead(make([]byte, 0, 512+len(tail)), c, len(tail))
	answer, _, err := proposeEntry[*command.AppendedTo](ctx, s, append(entry, tail...))
	if err == nil {
		err = codeError(answer.Code)
	}
	if err != nil {
		return 0, nil, err
	}
	for i := range msgs {
		uids = append(uids, answer.FirstUID+uint32(i))
	}
	return answer.UIDValidity, uids, nil
}

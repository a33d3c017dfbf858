package mailbox

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

const (
	// partsInFlight is how many part entries of one message are proposed at once.
	partsInFlight = 8
	// headRoom is left in front of a message in the buffer of its entry for the
	// fields of the entry: structure, envelope and some recipients.
	headRoom = 1536
	// entryCost is charged for each entry in flight beside its message.
	entryCost = 512
)

// Deliver stores one message and adds it to each recipient's mailbox. Over 500
// recipients go in several entries; the octets are written once, and not again
// for a later delivery of the same message, by d.Same or, if d.Named, by what it
// is.
func (s *Service) Deliver(ctx context.Context, d *Delivery) ([]DeliveryResult, error) {
	size := int64(len(d.Trace)) + int64(len(d.Message))
	if size > s.cfg.MaxMessage+maxTrace {
		return nil, ErrTooBig
	}
	release, err := s.take(size + entryCost)
	if err != nil {
		return nil, err
	}
	defer release()

	results := make([]DeliveryResult, len(d.Recipients))
	rcpts, at := s.recipients(d.Recipients, results)
	if len(rcpts) == 0 {
		return results, nil
	}
	e, keep := s.entryOf(d)
	if storedByNone(rcpts) {
		e.drop()
	}
	if err := s.large(ctx, e); err != nil {
		return nil, err
	}
	for len(rcpts) > 0 {
		n := min(len(rcpts), command.MaxRecipients)
		first := len(rcpts) == len(at)
		done := at[len(at)-len(rcpts):]
		answer, err := s.deliver(ctx, d, e, rcpts[:n])
		switch {
		case err != nil && first:
			return nil, err
		case err != nil: // an earlier entry is committed: these are unknown
			for _, i := range done {
				results[i].Err = fmt.Errorf("%w: %w", ErrUnknownState, err)
			}
			return results, nil
		}
		for k := range answer.Recipients {
			res := resultOf(&answer.Recipients[k])
			if d.Recipients[done[k]].Welcome {
				res.Created = s.unwelcomed(rcpts[k].Account, &res)
			}
			results[done[k]] = res
		}
		if first {
			keep(e)
		}
		rcpts = rcpts[n:]
	}
	return results, nil
}

// entryOf is the entry for the message of d, and what is to be done with it once
// it is committed.
func (s *Service) entryOf(d *Delivery) (e *entry, keep func(*entry)) {
	forget := func(*entry) {}
	if d.Same != nil {
		return &entry{message: d.Same.message}, forget
	}
	if !d.Named || d.TraceID == "" {
		return newEntry(d.Trace, d.Message), forget
	}
	key := d.key(sha256.Sum256(d.Message))
	if k := s.bodies.get(key, s.cfg.Now()); k != nil {
		return &entry{message: k.message}, forget
	}
	now := s.cfg.Now()
	return newEntry(d.Trace, d.Message), func(e *entry) { s.bodies.put(key, e.message, now) }
}

// maxTrace is what the trace fields of this hop may add to a message.
const maxTrace = 4096

// deliver proposes one entry. After it, e is the message where it lies in the
// log, for the entries that follow.
func (s *Service) deliver(ctx context.Context, d *Delivery, e *entry, rcpts []command.Recipient) (*command.Delivered, error) {
	c := &command.Deliver{
		Head: s.head(), Seed: s.seed(), KeyLife: int64(s.cfg.KeyLife), Message: e.message, Recipients: rcpts,
		Compact: s.level2(),
	}
	c.Owners = s.owners() && slices.ContainsFunc(rcpts, func(rc command.Recipient) bool { return rc.Folder != "" })
	c.InternalDate = c.Time
	if !d.Arrival.IsZero() {
		c.InternalDate = d.Arrival.UnixNano()
	}
	data, off := e.bytes(c)
	answer, index, err := proposeEntry[*command.Delivered](ctx, s, data)
	if err != nil {
		return nil, err
	}
	e.committed(answer.Message, index, off)
	return answer, nil
}

// entry is a message on its way into an entry of the log. Its octets are
// copied once, to the place in the buffer where they are written.
type entry struct {
	message command.Message
	buf     []byte // head room and the octets
	tail    int    // octets at the end of buf that go into the entry
}

func newEntry(trace, body []byte) *entry {
	e := &entry{tail: len(trace) + len(body)}
	e.buf = make([]byte, headRoom, headRoom+e.tail)
	e.buf = append(append(e.buf, trace...), body...)
	octets := e.octets()
	e.message = newMessage(octets)
	if e.tail > 0 {
		e.message.Body = []command.Extent{{Len: uint32(e.tail)}}
	}
	return e
}

func (e *entry) octets() []byte { return e.buf[len(e.buf)-e.tail:] }

// bytes is the entry of c with the octets at its end, and where they begin.
func (e *entry) bytes(c command.Command) (data []byte, off int) {
	room := len(e.buf) - e.tail
	head := command.AppendHead(e.buf[:0:room], c, e.tail)
	if len(head) <= room { // in place: move it up to the octets
		copy(e.buf[room-len(head):], head)
		return e.buf[room-len(head):], len(head)
	}
	return append(head, e.octets()...), len(head)
}

// drop leaves out the octets: nobody stores them, and only the hash, by which
// a repeated key is checked, is needed.
func (e *entry) drop() {
	e.message.Size, e.message.Meta, e.message.Body = 0, nil, nil
	e.buf, e.tail = nil, 0
}

// storedByNone reports whether the message goes into no mailbox.
func storedByNone(rcpts []command.Recipient) bool {
	for i := range rcpts {
		if a := rcpts[i].Autoreply; a == nil || !a.Only {
			return false
		}
	}
	return true
}

// committed notes that the message is in the log.
func (e *entry) committed(id, index uint64, off int) {
	e.message.ID = id
	for i := range e.message.Body {
		if x := &e.message.Body[i]; x.Index == 0 {
			x.Index, x.Off = index, uint32(off)+x.Off
		}
	}
	e.buf, e.tail = nil, 0
}

// large writes the octets as parts when they are too many for one entry.
func (s *Service) large(ctx context.Context, e *entry) (err error) {
	if e.tail > command.MaxPart {
		e.message.Body, err = s.parts(ctx, e.octets())
		e.buf, e.tail = nil, 0
	}
	return err
}

// newMessage describes a message: its hash, structure and envelope.
func newMessage(b []byte) command.Message {
	m := command.Message{Size: int64(len(b)), Meta: message.Parse(b).AppendBinary(make([]byte, 0, 512))}
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
			data := command.AppendHead(make([]byte, 0, 64+len(piece)), &command.Part{Head: s.head()}, len(piece))
			off := len(data)
			_, index, err := proposeEntry[*command.Done](ctx, s, append(data, piece...))
			at[i] = command.Extent{Index: index, Off: uint32(off), Len: uint32(len(piece))}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return at, nil
}

// recipients returns the recipients that can be proposed and where their
// results belong. The others have theirs.
func (s *Service) recipients(in []DeliveryRecipient, results []DeliveryResult) (out []command.Recipient, at []int) {
	answers := s.cfg.Answers == nil || s.cfg.Answers()
	out, at = make([]command.Recipient, 0, len(in)), make([]int, 0, len(in))
	for i := range in {
		r := &in[i]
		account, err := accountName(r.Account)
		if err != nil {
			results[i].Err = &mail.Error{
				Op: "mailbox.Deliver", Status: mail.StatusBadMailbox, Reply: "No such mailbox", Err: ErrNoAccount,
			}
			continue
		}
		rc := command.Recipient{
			Account: account, Create: r.Create, Force: r.Force, Key: command.Key(r.Key), Flags: uint64(r.Flags),
		}
		if name, err := cleanName(r.Folder); err == nil { // a folder that cannot exist does not: INBOX
			rc.Folder = name
		}
		if rc.Folder != "" && s.level2() {
			rc.Poster = posters(r.Poster)
		}
		if validKeywords(r.Keywords) {
			rc.Keywords = r.Keywords
		}
		if q := r.Quota; q != nil {
			rc.Limit = &command.Limit{Bytes: q.Bytes, Messages: q.Messages, Stamp: q.Stamp}
		}
		if q := r.Autoreply; q != nil {
			claims := s.level2()
			if q.By != (mail.DeliveryKey{}) && !claims {
				results[i].Answer = answers // it was decided when it was asked
				continue
			}
			if !answers && q.Only {
				continue // accepted, and that is all
			}
			if answers {
				rc.Autoreply = &command.Autoreply{
					Hash: q.Hash, Only: q.Only,
					Seconds: uint32(min(max(q.Period, 0), mail.MaxAutoreplyPeriod) / time.Second),
					Later:   q.Later && claims, By: command.Key(q.By),
				}
			}
		}
		out, at = append(out, rc), append(at, i)
	}
	return out, at
}

// newFor is how long a mailbox counts as new. Keys are remembered for longer.
const newFor = 24 * time.Hour

// unwelcomed is when the account was made, if that is not long ago and its
// welcome has not been delivered. INBOX tells: its UIDVALIDITY is the second in
// which the account was made, see seed.
func (s *Service) unwelcomed(account string, res *DeliveryResult) int64 {
	made := int64(res.UIDValidity)
	age := s.cfg.Now().Sub(time.Unix(made, 0))
	if res.Err != nil || res.UID == 0 || res.Mailbox != "INBOX" || age > newFor || age < -time.Hour {
		return 0
	}
	// A failure to read is no reason to fail the delivery; the next one asks again.
	if done, err := s.cfg.Store.HasDelivered(mail.WelcomeKey(account, made)); done || err != nil {
		return 0
	}
	return made
}

func resultOf(to *command.DeliveredTo) DeliveryResult {
	r := DeliveryResult{Duplicate: to.Duplicate, Mailbox: to.Mailbox, Refused: to.Refused, UIDValidity: to.UIDValidity, UID: to.UID, Answer: to.Answer}
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
	case command.Moving:
		r.Err = &ErrMoved{Pair: to.Peer, Epoch: to.Epoch}
	case command.KeyMismatch: // a fault of ours: never bounced
		fail(451, mail.StatusNotServing, "Delivery refused, see the log", ErrKeyMismatch)
	default:
		r.Err = codeError(to.Code)
	}
	return r
}

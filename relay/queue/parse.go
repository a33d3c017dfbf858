package queue

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// line is one parsed line.
type line struct {
	key, rest string
	err       error
}

func (l *line) fail(what string) {
	if l.err == nil {
		l.err = fmt.Errorf("%w: %s %s", ErrDamaged, l.key, what)
	}
}

func (l *line) text() string {
	if q, err := strconv.QuotedPrefix(l.rest); err == nil && q == l.rest {
		if s, err := strconv.Unquote(q); err == nil && q[0] == '"' {
			return s
		}
	}
	l.fail("is not quoted text")
	return ""
}

func (l *line) num() int64 {
	n, err := strconv.ParseInt(l.rest, 10, 64)
	if err != nil {
		l.fail("is not a number")
	}
	return n
}

func (l *line) small(limit int64) int {
	n := l.num()
	if n < 0 || n > limit {
		l.fail("is out of range")
		return 0
	}
	return int(n)
}

func (l *line) flag() bool {
	if l.rest != "" {
		l.fail("has a value")
	}
	return true
}

func (l *line) time() time.Time { return time.Unix(0, l.num()) }

func (l *line) address() mail.Address {
	s := l.text()
	if s == "" {
		return mail.Address{}
	}
	a, err := mail.ParseAddress(s, true)
	if err != nil {
		l.fail("is not an address")
	}
	return a
}

func (l *line) deliveryKey() mail.DeliveryKey {
	k, err := mail.ParseDeliveryKey(l.text())
	if err != nil {
		l.fail("is not a key")
	}
	return k
}

func (l *line) status() mail.Status {
	s, ok := mail.ParseStatus(l.text())
	if !ok {
		l.fail("is not a status code")
	}
	return s
}

// readItem reads an envelope file. It never panics, whatever b holds, and
// accepts nothing whose checksum is wrong. It keeps nothing of b.
func readItem(b []byte) (*Item, error) {
	it := &Item{Recipients: make([]Recipient, 0, min(bytes.Count(b, []byte("\nrcpt ")), maxRecipients))}
	err := it.parse(b, func() *Recipient {
		it.Recipients = append(it.Recipients, Recipient{})
		return &it.Recipients[len(it.Recipients)-1]
	})
	if err != nil {
		return nil, err
	}
	return it, nil
}

// checkItem reports whether readItem would read b, and holds one recipient at a
// time.
func checkItem(b []byte) error {
	var r Recipient
	return new(Item).parse(b, func() *Recipient {
		r = Recipient{}
		return &r
	})
}

// piece is how much of a file is made text at once.
const piece = 32 << 10

// parse reads b into it, and each recipient into what next returns.
func (it *Item) parse(b []byte, next func() *Recipient) error {
	if len(b) > maxEnvelope {
		return fmt.Errorf("%w: %d octets", ErrDamaged, len(b))
	}
	lines, err := checkEnvelope(b)
	if err != nil {
		return err
	}
	p := parser{it: it, next: next, texts: []string{""}}
	for len(lines) > 0 {
		n := min(piece, len(lines))
		if end := bytes.IndexByte(lines[n:], '\n'); end >= 0 {
			n += end
		} else {
			n = len(lines)
		}
		for raw := range strings.SplitSeq(string(lines[:n]), "\n") {
			if raw == "" {
				continue
			}
			if err := p.line(raw); err != nil {
				return err
			}
		}
		lines = lines[min(n+1, len(lines)):]
	}
	if it.Envelope.QueueID == "" || it.Size < 0 {
		return fmt.Errorf("%w: no id", ErrDamaged)
	}
	return nil
}

// parser is what is known on the way through a file.
type parser struct {
	it    *Item
	next  func() *Recipient
	rcpt  *Recipient // the one in hand
	n     int
	texts []string // for new mailboxes
}

func (p *parser) line(raw string) error {
	l := line{}
	l.key, l.rest, _ = strings.Cut(raw, " ")
	switch {
	case l.key == "rcpt":
		if p.n++; p.n > maxRecipients {
			return fmt.Errorf("%w: too many recipients", ErrDamaged)
		}
		p.rcpt = p.next()
		p.rcpt.Address = l.address()
	case l.key == "welcome":
		p.texts = append(p.texts, l.text())
	case strings.HasPrefix(l.key, "+"):
		if p.rcpt == nil {
			return fmt.Errorf("%w: %s before the first recipient", ErrDamaged, l.key)
		}
		if l.key == "+welcome" {
			p.rcpt.Welcome = p.texts[l.small(int64(len(p.texts)-1))]
		} else {
			p.rcpt.read(&l)
		}
	default:
		p.it.read(&l)
	}
	return l.err
}

// checkEnvelope checks the version and the checksum, and returns the lines
// between the first and the last.
func checkEnvelope(b []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(b, []byte("\n"))
	var version, lowest int
	if ok {
		f := strings.Fields(string(head))
		ok = len(f) == 3 && f[0] == formatMagic
		if ok {
			var err1, err2 error
			version, err1 = strconv.Atoi(f[1])
			lowest, err2 = strconv.Atoi(f[2])
			ok = err1 == nil && err2 == nil && version >= 1 && lowest >= 1
		}
	}
	if !ok {
		return nil, fmt.Errorf("%w: no %s line", ErrDamaged, formatMagic)
	}
	const tail = len("end 01234567\n")
	if len(rest) < tail || !bytes.HasPrefix(rest[len(rest)-tail:], []byte("end ")) || rest[len(rest)-1] != '\n' {
		return nil, fmt.Errorf("%w: no end", ErrDamaged)
	}
	want, err := strconv.ParseUint(string(rest[len(rest)-tail+4:len(rest)-1]), 16, 32)
	if err != nil || crc32.Checksum(b[:len(b)-tail], castagnoli) != uint32(want) {
		return nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	if lowest > formatVersion {
		return nil, fmt.Errorf("%w: %d, to be read by %d and later", ErrVersion, version, lowest)
	}
	if lowest >= 3 {
		if err := sealed(b[:len(b)-tail]); err != nil {
			return nil, err
		}
	}
	return rest[:len(rest)-tail], nil
}

func (it *Item) read(l *line) {
	env := &it.Envelope
	switch l.key {
	case "id":
		env.QueueID = l.text()
	case "root":
		env.RootID = l.text()
	case "origin":
		env.Origin = l.text()
	case "arrival":
		env.Arrival = l.time()
	case "from":
		env.ReversePath = l.address()
	case "envid":
		env.EnvelopeID = l.text()
	case "ret":
		env.Ret = l.text()
	case "body":
		env.Body = mail.BodyType(l.text())
	case "utf8":
		env.SMTPUTF8 = l.flag()
	case "announced":
		env.Size = l.num()
	case "priority":
		env.Priority = mail.Priority(max(min(l.num(), int64(mail.Urgent)), int64(mail.NonUrgent)))
	case "auth":
		env.AuthUser = l.text()
	case "guaranteed":
		env.Guaranteed = l.flag()
	case "size":
		it.Size = l.num()
	case "sum":
		it.Sum = uint32(l.num())
	case "hash":
		it.Hash = l.hash()
	case "client":
		it.Client = l.text()
	case "held":
		it.Held = l.flag()
	case "reason":
		it.Reason = l.text()
	case "heldat":
		it.HeldAt = l.time()
	case "notices":
		it.Notices = l.small(1000)
	case "crashes":
		it.Crashes = l.small(1 << 30)
	case "report":
		it.Report = l.flag()
	case "claim":
		env.Claim = &mail.AutoreplyClaim{Hash: l.hash()}
	case "claimpair", "claimmailbox", "claimtime":
		l.claim(env.Claim)
	case "parent":
		it.Parent.ID = l.text()
	case "parentkey":
		it.Parent.Key = l.deliveryKey()
	case "parentstate":
		it.Parent.State = l.state()
	case "parentnotice":
		it.Parent.Notice = l.small(1000)
	}
}

func (r *Recipient) read(l *line) {
	switch l.key {
	case "+orcpt":
		r.OriginalRecipient = l.text()
	case "+notify":
		r.Notify = mail.Notify(l.small(255))
	case "+channel":
		r.Channel = mail.Channel(l.text())
	case "+hop":
		r.NextHop = l.text()
	case "+mailbox":
		r.Mailbox = l.text()
	case "+folder":
		r.Folder = l.text()
	case "+poster":
		r.Poster = append(r.Poster, l.text())
	case "+key":
		r.Key = l.deliveryKey()
	case "+quota":
		r.Quota = l.quota()
	case "+store":
		r.Store = l.text()
	case "+reports":
		r.Reports = l.address()
	case "+via":
		r.Via = append(r.Via, l.text())
	case "+list":
		r.ListName = l.text()
	case "+reply":
		r.Autoreply = &mail.Autoreply{Mode: mail.AutoreplyMode(l.text())}
	case "+state":
		r.State = l.state()
	case "+attempts":
		r.Attempts = l.small(1 << 30)
	case "+step":
		r.Step = l.small(1 << 30)
	case "+last":
		r.LastTry = l.time()
	case "+next":
		r.Next = l.time()
	case "+busy":
		r.Busy = l.time()
	case "+unknown":
		r.Unknown = l.flag()
	case "+code":
		r.Answer.Code = l.small(999)
	case "+status":
		r.Answer.Status = l.status()
	case "+text":
		r.Answer.Text = l.text()
	case "+relay":
		r.Answer.Relay = l.text()
	default:
		if strings.HasPrefix(l.key, "+reply") {
			l.autoreply(r.Autoreply)
		}
	}
}

func (l *line) hash() (h Hash) {
	if n, err := hex.Decode(h[:], []byte(l.rest[:min(len(l.rest), 2*len(h))])); err != nil || n != len(h) || len(l.rest) != 2*len(h) || l.rest != strings.ToLower(l.rest) || h == (Hash{}) {
		l.fail("is not a hash")
		return Hash{}
	}
	return h
}

func (l *line) quota() *mail.Quota {
	f := strings.SplitN(l.rest, " ", 3)
	if len(f) != 3 {
		l.fail("has not three values")
		return nil
	}
	sub := line{key: l.key, rest: f[0]}
	q := &mail.Quota{Bytes: sub.num()}
	sub.rest = f[1]
	q.Messages = sub.num()
	sub.rest = f[2]
	q.Stamp = sub.text()
	l.err = sub.err
	return q
}

func (l *line) state() State {
	name := l.text()
	for s, n := range stateNames {
		if n == name {
			return State(s)
		}
	}
	l.fail("is not a state")
	return Pending
}

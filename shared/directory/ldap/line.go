package ldap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// Tags of the messages that a line knows (RFC 4511).
const (
	opBindRequest  = 0x60
	opBindResponse = 0x61
	opSearch       = 0x63
	opSearchEntry  = 0x64
	opSearchDone   = 0x65
	opSearchRef    = 0x73
	opAbandon      = 0x50
	opExtended     = 0x77
	opExtendedDone = 0x78
	tagControls    = 0xa0

	oidStartTLS = "1.3.6.1.4.1.1466.20037"
)

// maxFrame is the longest message that is read, in octets: a group of some
// million members.
const maxFrame = 64 << 20

var (
	errTimeout = errors.New("no answer in time")
	errClosed  = errors.New("connection closed")
)

// result is one entry as a server sent it.
type result struct {
	DN         string
	Attributes directory.Attributes
}

// line is a connection for searches, any number of them at once. It does what
// the library's connection does, without allocating for each element: one
// search costs a tenth. A search ends with a SearchResultDone, or is an error.
type line struct {
	nc      net.Conn
	timeout time.Duration

	writing sync.Mutex // guards out and writing; never held together with mu
	out     ber.Encoder

	mu      sync.Mutex // guards what follows; nobody writes with it, so that reading goes on
	id      int64
	waiting map[int64]*pending
	closed  error // why, nil while open

	names map[string]string // attribute as it was sent: in lower case; of the reader only
}

// request is one search.
type request struct {
	base   string
	scope  int
	filter []byte // whole, in BER
	attrs  []string
	limit  int // most entries, 0 for as many as there are
	// page, when not 0, asks for a page of that many entries (RFC 2696), the
	// first one or the one that cookie stands for.
	page   int
	cookie []byte
}

// pending is a search under way. Its results are complete before done is
// closed.
type pending struct {
	done   chan struct{}
	found  []result
	limit  int
	paged  bool
	cookie []byte // of the next page, empty after the last one
	err    error
}

func failure(err error) error { return &ldap.Error{ResultCode: ldap.ErrorNetwork, Err: err} }

// newLine is for nc, which has been logged in. Somebody has to run read.
func newLine(nc net.Conn, id int64, timeout time.Duration) *line {
	return &line{nc: nc, timeout: timeout, id: id, waiting: map[int64]*pending{}, names: map[string]string{}}
}

// IsClosing reports whether the line is of no more use.
func (l *line) IsClosing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed != nil
}

// Close ends the line and all searches on it.
func (l *line) Close() error {
	l.end(errClosed)
	return nil
}

func (l *line) end(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		return
	}
	l.closed = cause
	l.nc.Close()
	for id, p := range l.waiting {
		delete(l.waiting, id)
		p.err = failure(cause)
		close(p.done)
	}
}

// search asks one question. filter is a whole filter in BER.
func (l *line) search(ctx context.Context, base string, scope int, filter []byte, attrs []string, limit int) ([]result, error) {
	found, _, err := l.do(ctx, &request{base: base, scope: scope, filter: filter, attrs: attrs, limit: limit})
	return found, err
}

// do asks for what q says. The cookie is the next page's.
func (l *line) do(ctx context.Context, q *request) (found []result, cookie []byte, err error) {
	p := &pending{done: make(chan struct{}), limit: q.limit, paged: q.page > 0}
	if p.paged {
		p.limit = q.page
	}
	id, err := l.send(p, q)
	if err != nil {
		return nil, nil, err
	}
	timer := time.NewTimer(l.timeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		if err := l.abandon(id, p, failure(errTimeout)); err != nil {
			return nil, nil, err
		}
	case <-ctx.Done():
		if err := l.abandon(id, p, ctx.Err()); err != nil {
			return nil, nil, err
		}
	}
	return p.found, p.cookie, p.err
}

func (l *line) send(p *pending, q *request) (id int64, err error) {
	l.mu.Lock()
	if l.closed != nil {
		defer l.mu.Unlock()
		return 0, failure(l.closed)
	}
	id = l.next()
	l.waiting[id] = p
	l.mu.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	w := &l.out
	w.B = w.B[:0]
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, id)
	op := w.Begin(opSearch)
	w.Octets(ber.TagOctets, q.base)
	w.Integer(ber.TagEnumerated, int64(q.scope))
	w.Integer(ber.TagEnumerated, ldap.NeverDerefAliases)
	w.Integer(ber.TagInteger, int64(q.limit))
	w.Integer(ber.TagInteger, int64(max(1, l.timeout/time.Second)))
	w.B = append(w.B, ber.TagBoolean, 1, 0)
	w.B = append(w.B, q.filter...)
	list := w.Begin(ber.TagSequence)
	for _, a := range q.attrs {
		w.Octets(ber.TagOctets, a)
	}
	w.End(list)
	w.End(op)
	if q.page > 0 {
		appendPaging(w, q)
	}
	w.End(msg)
	if _, err := l.nc.Write(w.B); err != nil {
		l.end(err)
		return 0, failure(err)
	}
	return id, nil
}

// appendPaging adds the control for one page. It is critical: a server that
// cannot do it would send everything at once.
func appendPaging(w *ber.Encoder, q *request) {
	controls := w.Begin(tagControls)
	ctl := w.Begin(ber.TagSequence)
	w.Octets(ber.TagOctets, ldap.ControlTypePaging)
	w.B = append(w.B, ber.TagBoolean, 1, 0xff)
	value := w.Begin(ber.TagOctets)
	seq := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, int64(q.page))
	w.Octets(ber.TagOctets, string(q.cookie))
	w.End(seq)
	w.End(value)
	w.End(ctl)
	w.End(controls)
}

// nextPage is the cookie in the controls of a SearchResultDone, empty when
// there is none.
func nextPage(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	list, _, err := ber.Expect(b, tagControls)
	for err == nil && len(list) > 0 {
		var ctl, oid, value []byte
		if ctl, list, err = ber.Expect(list, ber.TagSequence); err != nil {
			return nil, err
		}
		if oid, ctl, err = ber.Expect(ctl, ber.TagOctets); err != nil || string(oid) != ldap.ControlTypePaging {
			continue
		}
		if e, rest, err := ber.Next(ctl); err == nil && e.Tag == ber.TagBoolean {
			ctl = rest
		}
		if value, _, err = ber.Expect(ctl, ber.TagOctets); err != nil {
			return nil, err
		}
		if value, _, err = ber.Expect(value, ber.TagSequence); err != nil {
			return nil, err
		}
		if _, value, err = ber.ExpectInt(value, ber.TagInteger); err != nil {
			return nil, err
		}
		if value, _, err = ber.Expect(value, ber.TagOctets); err != nil {
			return nil, err
		}
		return slices.Clone(value), nil
	}
	return nil, err
}

// next is the number of a new message. The caller holds mu.
func (l *line) next() int64 {
	if l.id++; l.id >= 1<<31-1 {
		l.id = 1
	}
	return l.id
}

// abandon gives up a search, unless it has ended by now: then it is nil.
func (l *line) abandon(id int64, p *pending, cause error) error {
	l.mu.Lock()
	if l.waiting[id] != p {
		defer l.mu.Unlock()
		<-p.done // closed under the lock by whoever took it out
		return nil
	}
	delete(l.waiting, id)
	own := l.next()
	l.mu.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	w := &l.out
	w.B = w.B[:0]
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, own)
	w.Integer(opAbandon, id)
	w.End(msg)
	_, _ = l.nc.Write(w.B) // a failed write has closed the connection
	return cause
}

// read takes answers to their searches until the connection ends. r may hold
// what was read ahead.
func (l *line) read(r *bufio.Reader) {
	var buf []byte
	for {
		var err error
		if buf, err = ber.ReadFrame(r, buf, maxFrame); err == nil {
			err = l.receive(buf)
		}
		if err != nil {
			l.end(fmt.Errorf("reading: %w", err))
			return
		}
		if cap(buf) > 1<<20 {
			buf = nil
		}
	}
}

// receive takes one message. An error ends the line.
func (l *line) receive(body []byte) error {
	id, rest, err := ber.ExpectInt(body, ber.TagInteger)
	if err != nil {
		return err
	}
	if id == 0 {
		return errors.New("the server ends the connection") // RFC 4511 4.4.1
	}
	op, rest, err := ber.Next(rest)
	if err != nil {
		return err
	}
	l.mu.Lock()
	p := l.waiting[id]
	l.mu.Unlock()
	if p == nil {
		return nil // given up
	}
	switch op.Tag {
	case opSearchEntry:
		if len(p.found) >= p.limit && p.limit > 0 {
			return errors.New("more entries than were asked for")
		}
		e, err := l.entry(op.Body)
		if err != nil {
			return err
		}
		l.mu.Lock()
		if l.waiting[id] == p { // nobody reads p.found before it is taken out
			p.found = append(p.found, e)
		}
		l.mu.Unlock()
		return nil
	case opSearchRef:
		l.finish(id, p, &ldap.Error{ResultCode: ldap.LDAPResultReferral, Err: errReferral})
		return nil
	case opSearchDone:
		err := outcome(op.Body)
		if errors.Is(err, ber.ErrSyntax) {
			return err
		}
		if p.paged && err == nil {
			if p.cookie, err = nextPage(rest); err != nil { // nobody reads it before p is finished
				return err
			}
		}
		l.finish(id, p, err)
		return nil
	}
	return fmt.Errorf("message with tag %#x", op.Tag)
}

func (l *line) finish(id int64, p *pending, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[id] != p {
		return
	}
	delete(l.waiting, id)
	p.err = err
	close(p.done)
}

// outcome reads an LDAPResult: nil for success, an *ldap.Error, or ErrSyntax.
func outcome(b []byte) error {
	code, b, err := ber.ExpectInt(b, ber.TagEnumerated)
	if err != nil || code < 0 || code > 1<<15 {
		return ber.ErrSyntax
	}
	matched, b, err := ber.Expect(b, ber.TagOctets)
	if err != nil {
		return ber.ErrSyntax
	}
	text, _, err := ber.Expect(b, ber.TagOctets)
	if err != nil {
		return ber.ErrSyntax
	}
	if code == ldap.LDAPResultSuccess {
		return nil
	}
	return &ldap.Error{ResultCode: uint16(code), MatchedDN: string(matched), Err: errors.New(strings.ToValidUTF8(string(text), "?"))}
}

// maxNames bounds the names of attributes that a line remembers.
const maxNames = 1000

// entry reads a SearchResultEntry. Its strings are parts of one copy.
func (l *line) entry(body []byte) (e result, err error) {
	all := string(body)
	at := func(b []byte) string { // b is a part of body, and so is its capacity
		from := cap(body) - cap(b)
		return all[from : from+len(b)]
	}
	dn, b, err := ber.Expect(body, ber.TagOctets)
	if err != nil {
		return e, err
	}
	e.DN = at(dn)
	list, _, err := ber.Expect(b, ber.TagSequence)
	if err != nil {
		return e, err
	}
	attributes, values := count(list)
	e.Attributes = make(directory.Attributes, 0, attributes)
	room := make([]string, 0, values) // of all attributes: an entry has many with one value
	for len(list) > 0 {
		var part []byte
		if part, list, err = ber.Expect(list, ber.TagSequence); err != nil {
			return e, err
		}
		name, part, err := ber.Expect(part, ber.TagOctets)
		if err != nil {
			return e, err
		}
		set, _, err := ber.Expect(part, ber.TagSet)
		if err != nil {
			return e, err
		}
		first := len(room)
		for len(set) > 0 {
			var v []byte
			if v, set, err = ber.Expect(set, ber.TagOctets); err != nil {
				return e, err
			}
			room = append(room, at(v))
		}
		a := directory.Attribute{Name: l.name(name)}
		if len(room) > first {
			a.Values = room[first:len(room):len(room)]
		}
		e.Attributes = append(e.Attributes, a)
	}
	return e, nil
}

// count counts the attributes of a list and their values, as far as it is well
// formed.
func count(list []byte) (attributes, values int) {
	for len(list) > 0 {
		part, rest, err := ber.Expect(list, ber.TagSequence)
		if err != nil {
			break
		}
		list = rest
		attributes++
		if _, part, err = ber.Expect(part, ber.TagOctets); err != nil {
			break
		}
		set, _, err := ber.Expect(part, ber.TagSet)
		for err == nil && len(set) > 0 {
			if _, set, err = ber.Expect(set, ber.TagOctets); err == nil {
				values++
			}
		}
	}
	return attributes, values
}

// name is an attribute's name in lower case.
func (l *line) name(b []byte) string {
	if s, ok := l.names[string(b)]; ok {
		return s
	}
	s := strings.ToLower(string(b))
	if len(l.names) < maxNames {
		l.names[string(b)] = s
	}
	return s
}

// exchange sends a request that make writes and waits for its response, before
// anything else happens on the connection.
func exchange(nc net.Conn, r *bufio.Reader, id int64, response byte, make func(w *ber.Encoder)) error {
	var w ber.Encoder
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, id)
	make(&w)
	w.End(msg)
	if _, err := nc.Write(w.B); err != nil {
		return err
	}
	body, err := ber.ReadFrame(r, nil, maxFrame)
	if err != nil {
		return err
	}
	got, rest, err := ber.ExpectInt(body, ber.TagInteger)
	if err != nil {
		return err
	}
	op, _, err := ber.Next(rest)
	if err != nil {
		return err
	}
	if got != id || op.Tag != response {
		return fmt.Errorf("answer %d with tag %#x to request %d", got, op.Tag, id)
	}
	return outcome(op.Body)
}

// bindRequest is a simple bind.
func bindRequest(dn, password string) func(w *ber.Encoder) {
	return func(w *ber.Encoder) {
		op := w.Begin(opBindRequest)
		w.Integer(ber.TagInteger, 3)
		w.Octets(ber.TagOctets, dn)
		w.Octets(0x80, password)
		w.End(op)
	}
}

// startTLSRequest is RFC 4511 4.14.
func startTLSRequest(w *ber.Encoder) {
	op := w.Begin(opExtended)
	w.Octets(0x80, oidStartTLS)
	w.End(op)
}

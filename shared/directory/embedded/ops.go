package embedded

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// selection says which attributes a search returns.
type selection struct {
	user, oper bool
	names      []string // lower case
	hidden     []string
	typesOnly  bool
}

func newSelection(wanted []string, hidden []string, typesOnly bool) selection {
	sel := selection{user: len(wanted) == 0, hidden: hidden, typesOnly: typesOnly}
	for _, w := range wanted {
		switch w {
		case "*":
			sel.user = true
		case "+":
			sel.oper = true
		case "1.1": // no attributes (RFC 4511 4.5.1.8)
		default:
			sel.names = append(sel.names, w)
		}
	}
	return sel
}

func (sel *selection) has(a *attribute) bool {
	if isHidden(a.lower, sel.hidden) {
		return false
	}
	if a.oper && sel.oper || !a.oper && sel.user {
		return true
	}
	return slices.ContainsFunc(sel.names, func(w string) bool { return describes(w, a.lower) })
}

// entry appends a SearchResultEntry.
func (c *conn) entry(id int64, o *object, sel *selection) {
	w := &c.out
	msg := w.begin(tagSequence)
	w.integer(tagInteger, id)
	res := w.begin(opSearchEntry)
	w.octets(tagOctets, o.dn)
	list := w.begin(tagSequence)
	write := func(a *attribute) {
		if !sel.has(a) {
			return
		}
		part := w.begin(tagSequence)
		w.octets(tagOctets, a.name)
		set := w.begin(tagSet)
		if !sel.typesOnly {
			for _, v := range a.values {
				w.octets(tagOctets, v)
			}
		}
		w.end(set)
		w.end(part)
	}
	for i := range o.attrs {
		write(&o.attrs[i])
	}
	if o.dn != "" && (sel.oper || slices.Contains(sel.names, "entrydn")) {
		write(&attribute{name: "entryDN", lower: "entrydn", values: []string{o.dn}, oper: true})
	}
	w.end(list)
	w.end(res)
	w.end(msg)
}

// page is the state of a paged search (RFC 2696). The cookie holds where to go
// on and a digest of the search, so that the server remembers nothing.
type page struct {
	on    bool
	size  int
	after uint64
}

func (req *request) page() (page, error) {
	for _, ctl := range req.controls {
		if ctl.oid != oidPaging {
			continue
		}
		body, _, err := expect(ctl.value, tagSequence)
		if err != nil {
			return page{}, err
		}
		size, body, err := expectInt(body, tagInteger)
		if err != nil || size < 0 {
			return page{}, errBER
		}
		cookie, _, err := expect(body, tagOctets)
		if err != nil {
			return page{}, err
		}
		p := page{on: true, size: int(min(size, 1<<20))}
		if len(cookie) > 0 {
			if len(cookie) != 16 || binary.BigEndian.Uint64(cookie[8:]) != req.digest() {
				return page{}, errBER
			}
			p.after = binary.BigEndian.Uint64(cookie)
		}
		return p, nil
	}
	return page{}, nil
}

// digest names a search by what must not change between its pages.
func (req *request) digest() uint64 {
	h := fnv.New64a()
	h.Write([]byte(req.dn))
	h.Write([]byte{byte(req.scope)})
	req.filter.write(h.Write)
	return h.Sum64()
}

func (f *filter) write(w func([]byte) (int, error)) {
	w([]byte{f.kind})
	for _, s := range append([]string{f.attr, f.value, f.initial, f.final, f.rule}, f.any...) {
		w([]byte(s))
		w([]byte{0})
	}
	for _, c := range f.children {
		c.write(w)
	}
	w([]byte{0xff})
}

var errSize, errTime, errPage = errors.New("size limit"), errors.New("time limit"), errors.New("page full")

func (c *conn) search(req *request) error {
	if req.dn == "" && req.scope == 0 {
		return c.rootDSE(req)
	}
	if c.who == "" && !c.s.cfg.AnonymousRead {
		c.respond(req.id, opSearchDone, codeInsufficientAccess, "", "bind first")
		return nil
	}
	p, err := req.page()
	if err != nil {
		c.respond(req.id, opSearchDone, codeProtocolError, "", "bad paged results control")
		return nil
	}
	hidden := c.s.hidden
	if c.root {
		hidden = nil
	}
	found, outcome := c.find(req, &p, hidden)
	sel := newSelection(req.wanted, hidden, req.typesOnly)
	for _, o := range found {
		c.entry(req.id, o, &sel)
		if len(c.out.b) >= flushThreshold {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	var re *resultError
	switch {
	case errors.Is(outcome, errPage):
		c.pageDone(req, p.after)
	case errors.Is(outcome, errSize):
		c.respond(req.id, opSearchDone, codeSizeLimit, "", "")
	case errors.Is(outcome, errTime):
		c.respond(req.id, opSearchDone, codeTimeLimit, "", "")
	case errors.As(outcome, &re):
		c.respond(req.id, opSearchDone, re.code, re.matched, re.text)
	case p.on:
		c.pageDone(req, 0)
	default:
		c.respond(req.id, opSearchDone, codeSuccess, "", "")
	}
	return nil
}

// find collects what matches, up to the limits, and leaves the number of the
// last entry in p.after when the page is full and there is more.
func (c *conn) find(req *request, p *page, hidden []string) (found []*object, err error) {
	limit := int(min(req.sizeLimit, 1<<30))
	if !c.root && !p.on && (limit == 0 || limit > c.s.cfg.SizeLimit) {
		limit = c.s.cfg.SizeLimit
	}
	patience := c.s.cfg.TimeLimit
	if req.timeLimit > 0 {
		patience = min(patience, time.Duration(min(req.timeLimit, 1<<20))*time.Second)
	}
	start, tested, last := time.Now(), 0, uint64(0)
	t := c.s.tree
	t.mu.RLock()
	defer t.mu.RUnlock()
	var base *node
	if req.dn != "" {
		if base, err = t.get(req.dn); err != nil {
			return nil, err
		}
	}
	err = t.search(base, req.scope, req.filter, p.after, func(n *node) error {
		if tested++; tested%1024 == 0 && time.Since(start) > patience {
			return errTime
		}
		if req.filter.match(n.obj, hidden) != yes {
			return nil
		}
		if limit > 0 && len(found) >= limit {
			return errSize
		}
		if p.on && len(found) >= p.size {
			return errPage
		}
		found, last = append(found, n.obj), n.seq
		return nil
	})
	if errors.Is(err, errPage) {
		if p.size == 0 { // RFC 2696 3: the client gives up, or asks for an estimate
			return nil, nil
		}
		p.after = last
	}
	return found, err
}

// pageDone is a SearchResultDone with a paged results control; after 0 says
// that this was the last page.
func (c *conn) pageDone(req *request, after uint64) {
	w := &c.out
	msg := w.begin(tagSequence)
	w.integer(tagInteger, req.id)
	res := w.begin(opSearchDone)
	w.integer(tagEnumerated, codeSuccess)
	w.octets(tagOctets, "")
	w.octets(tagOctets, "")
	w.end(res)
	controls := w.begin(0xa0)
	ctl := w.begin(tagSequence)
	w.octets(tagOctets, oidPaging)
	value := w.begin(tagOctets)
	seq := w.begin(tagSequence)
	w.integer(tagInteger, 0)
	var cookie []byte
	if after > 0 {
		cookie = binary.BigEndian.AppendUint64(cookie, after)
		cookie = binary.BigEndian.AppendUint64(cookie, req.digest())
	}
	w.octets(tagOctets, string(cookie))
	w.end(seq)
	w.end(value)
	w.end(ctl)
	w.end(controls)
	w.end(msg)
}

// rootDSE answers the search that tells what the server is (RFC 4512 5.1). Its
// attributes are operational but for objectClass.
func (c *conn) rootDSE(req *request) error {
	o := &object{}
	add := func(name string, oper bool, values ...string) {
		if len(values) > 0 {
			o.attrs = append(o.attrs, attribute{name, strings.ToLower(name), values, oper})
		}
	}
	c.s.tree.mu.RLock()
	var contexts []string
	for _, n := range c.s.tree.collect(nil, 1, nil) {
		contexts = append(contexts, n.obj.dn)
	}
	c.s.tree.mu.RUnlock()
	slices.Sort(contexts)
	add("objectClass", false, "top")
	add("namingContexts", true, contexts...)
	add("supportedLDAPVersion", true, "3")
	add("supportedControl", true, oidPaging, oidManageDsaIT)
	extensions := []string{oidWhoAmI}
	if c.s.cfg.TLS != nil {
		extensions = append(extensions, oidStartTLS)
	}
	add("supportedExtension", true, extensions...)
	add("supportedFeatures", true, "1.3.6.1.4.1.4203.1.5.1") // RFC 3673: "+"
	add("vendorName", true, "Postern")
	if req.filter.match(o, nil) == yes {
		sel := newSelection(req.wanted, nil, req.typesOnly)
		c.entry(req.id, o, &sel)
	}
	c.respond(req.id, opSearchDone, codeSuccess, "", "")
	return nil
}

func (c *conn) compare(req *request) {
	code, matched, text := c.compared(req)
	c.respond(req.id, opCompareResponse, code, matched, text)
}

func (c *conn) compared(req *request) (code int, matched, text string) {
	lower := strings.ToLower(req.attr)
	if c.who == "" && !c.s.cfg.AnonymousRead || !c.root && isHidden(lower, c.s.hidden) {
		return codeInsufficientAccess, "", ""
	}
	c.s.tree.mu.RLock()
	n, err := c.s.tree.get(req.dn)
	var o *object
	if err == nil {
		o = n.obj
	}
	c.s.tree.mu.RUnlock()
	var re *resultError
	if errors.As(err, &re) {
		return re.code, re.matched, re.text
	}
	a := o.find(lower)
	switch {
	case a == nil:
		return codeNoSuchAttribute, "", ""
	case indexOf(*a, req.value) >= 0:
		return codeCompareTrue, "", ""
	}
	return codeCompareFalse, "", ""
}

// change checks a change, writes it to the journal, and then makes it. One at
// a time; searches go on meanwhile.
func (s *Server) change(req *request) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	rec, apply, err := s.plan(req)
	if err != nil {
		return err
	}
	if err := s.journal.append(rec); err != nil {
		return err
	}
	s.tree.mu.Lock()
	defer s.tree.mu.Unlock()
	apply()
	return nil
}

// plan returns the journal's record of a change and the function that makes it
// in the tree. The caller is the only writer.
func (s *Server) plan(req *request) (rec []byte, apply func(), err error) {
	t := s.tree
	if req.op == opAdd {
		o, err := t.newObject(req.dn, req.attrs, false)
		if err != nil {
			return nil, nil, err
		}
		norm, parent, err := t.place(req.dn, false)
		if err != nil {
			return nil, nil, err
		}
		return appendEntry(nil, o), func() { t.insert(o, norm, parent) }, nil
	}
	n, err := t.get(req.dn)
	if err != nil {
		return nil, nil, err
	}
	switch req.op {
	case opDelete:
		if len(n.children) > 0 {
			return nil, nil, result(codeNotAllowedOnNonLeaf, "entry has children")
		}
		rec = appendLine(nil, "dn", n.obj.dn)
		return append(rec, "changetype: delete\n\n"...), func() { t.remove(n) }, nil
	case opModify:
		return s.planModify(n, req)
	}
	return s.planModifyDN(n, req)
}

// stampChanges are the modifications that go with a change of o.
func (s *Server) stampChanges() []change {
	now := s.tree.now()
	return []change{
		{2, attribute{attrCSN, strings.ToLower(attrCSN), []string{s.tree.csn.next(now)}, true}},
		{2, attribute{attrModified, strings.ToLower(attrModified), []string{now.UTC().Format(timestamp)}, true}},
	}
}

func (s *Server) planModify(n *node, req *request) ([]byte, func(), error) {
	m, err := s.tree.modified(n.obj, req.changes, false)
	if err != nil {
		return nil, nil, err
	}
	stamps := s.stampChanges()
	if m, err = s.tree.modified(m, stamps, true); err != nil {
		return nil, nil, err
	}
	rec := appendChanges(nil, n.obj.dn, append(slices.Clip(req.changes), stamps...))
	return rec, func() { s.tree.replace(n, m) }, nil
}

func (s *Server) planModifyDN(n *node, req *request) ([]byte, func(), error) {
	superior := n.parent
	if req.hasSuperior {
		var err error
		if superior, err = s.tree.get(req.newSuperior); err != nil {
			return nil, nil, err
		}
	}
	o, norm, err := s.tree.renamed(n, req.newRDN, req.deleteOld, superior)
	if err != nil {
		return nil, nil, err
	}
	stamps := s.stampChanges()
	for _, c := range stamps {
		if err := o.apply(c, true); err != nil {
			return nil, nil, err
		}
	}
	old := "0"
	if req.deleteOld {
		old = "1"
	}
	rec := appendLine(nil, "dn", n.obj.dn)
	rec = append(rec, "changetype: modrdn\n"...)
	rec = appendLine(rec, "newrdn", req.newRDN)
	rec = appendLine(rec, "deleteoldrdn", old)
	if superior != nil {
		rec = appendLine(rec, "newsuperior", superior.obj.dn)
	}
	rec = append(rec, '\n')
	rec = appendChanges(rec, o.dn, stamps)
	return rec, func() { s.tree.rename(n, o, norm, superior) }, nil
}

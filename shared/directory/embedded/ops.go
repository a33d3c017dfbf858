package embedded

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// selection says which attributes a search returns.
type selection struct {
	user, oper bool
	names      []string // lower case
	see        *view
	typesOnly  bool
}

func newSelection(wanted []string, see *view, typesOnly bool) selection {
	sel := selection{user: len(wanted) == 0, see: see, typesOnly: typesOnly}
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
	if !sel.see.may(a.lower, Read) {
		return false
	}
	if a.oper && sel.oper || !a.oper && sel.user {
		return true
	}
	return slices.ContainsFunc(sel.names, func(w string) bool { return describes(w, a.lower) })
}

// found is an entry that a search has found.
type found struct {
	obj    *object
	norm   string
	parent bool // has children
}

// entry appends a SearchResultEntry. The attributes that are not stored are
// computed here.
func (c *conn) entry(id int64, f *found, sel *selection) {
	o, hasSubordinates := f.obj, "FALSE"
	if f.parent {
		hasSubordinates = "TRUE"
	}
	sel.see.at(f.norm)
	w := &c.out
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, id)
	res := w.Begin(opSearchEntry)
	w.Octets(ber.TagOctets, o.dn)
	list := w.Begin(ber.TagSequence)
	write := func(a *attribute) {
		if !sel.has(a) {
			return
		}
		part := w.Begin(ber.TagSequence)
		w.Octets(ber.TagOctets, a.name)
		set := w.Begin(ber.TagSet)
		if !sel.typesOnly {
			for _, v := range a.values {
				w.Octets(ber.TagOctets, v)
			}
		}
		w.End(set)
		w.End(part)
	}
	for i := range o.attrs {
		write(&o.attrs[i])
	}
	if o.dn != "" {
		for _, a := range [...]attribute{
			{name: "entryDN", lower: "entrydn", values: []string{o.dn}, oper: true},
			{name: "subschemaSubentry", lower: "subschemasubentry", values: []string{subschemaDN}, oper: true},
			{name: "hasSubordinates", lower: "hassubordinates", values: []string{hasSubordinates}, oper: true},
		} {
			write(&a)
		}
	}
	w.End(list)
	w.End(res)
	w.End(msg)
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
		body, _, err := ber.Expect(ctl.value, ber.TagSequence)
		if err != nil {
			return page{}, err
		}
		size, body, err := ber.ExpectInt(body, ber.TagInteger)
		if err != nil || size < 0 {
			return page{}, ber.ErrSyntax
		}
		cookie, _, err := ber.Expect(body, ber.TagOctets)
		if err != nil {
			return page{}, err
		}
		p := page{on: true, size: int(min(size, 1<<20))}
		if len(cookie) > 0 {
			if len(cookie) != 16 || binary.BigEndian.Uint64(cookie[8:]) != req.digest() {
				return page{}, ber.ErrSyntax
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
	if req.scope == 0 && isSubschema(req.dn) {
		if req.filter.match(subschema(), nil) == yes {
			sel := newSelection(req.wanted, nil, req.typesOnly)
			c.entry(req.id, &found{obj: subschema()}, &sel)
		}
		c.respond(req.id, opSearchDone, codeSuccess, "", "")
		return nil
	}
	c.s.tree.mu.RLock()
	see := c.s.viewOf(c.norm, c.root)
	c.s.tree.mu.RUnlock()
	if see.blind() {
		text := ""
		if c.who == "" {
			text = "bind first"
		}
		c.respond(req.id, opSearchDone, codeInsufficientAccess, "", text)
		return nil
	}
	p, err := req.page()
	if err != nil {
		c.respond(req.id, opSearchDone, codeProtocolError, "", "bad paged results control")
		return nil
	}
	list, outcome := c.find(req, &p, see)
	sel := newSelection(req.wanted, see, req.typesOnly)
	for i := range list {
		c.entry(req.id, &list[i], &sel)
		if len(c.out.B) >= flushThreshold {
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
func (c *conn) find(req *request, p *page, see *view) (list []found, err error) {
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
		see.at(n.norm)
		if req.filter.match(n.obj, see) != yes || !see.may("entry", Search) {
			return nil
		}
		if limit > 0 && len(list) >= limit {
			return errSize
		}
		if p.on && len(list) >= p.size {
			return errPage
		}
		list, last = append(list, found{n.obj, n.norm, len(n.children) > 0}), n.seq
		return nil
	})
	if errors.Is(err, errPage) {
		if p.size == 0 { // RFC 2696 3: the client gives up, or asks for an estimate
			return nil, nil
		}
		p.after = last
	}
	return list, err
}

// pageDone is a SearchResultDone with a paged results control; after 0 says
// that this was the last page.
func (c *conn) pageDone(req *request, after uint64) {
	w := &c.out
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, req.id)
	res := w.Begin(opSearchDone)
	w.Integer(ber.TagEnumerated, codeSuccess)
	w.Octets(ber.TagOctets, "")
	w.Octets(ber.TagOctets, "")
	w.End(res)
	controls := w.Begin(0xa0)
	ctl := w.Begin(ber.TagSequence)
	w.Octets(ber.TagOctets, oidPaging)
	value := w.Begin(ber.TagOctets)
	seq := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, 0)
	var cookie []byte
	if after > 0 {
		cookie = binary.BigEndian.AppendUint64(cookie, after)
		cookie = binary.BigEndian.AppendUint64(cookie, req.digest())
	}
	w.Octets(ber.TagOctets, string(cookie))
	w.End(seq)
	w.End(value)
	w.End(ctl)
	w.End(controls)
	w.End(msg)
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
	extensions := []string{oidWhoAmI, oidPasswordModify}
	if c.s.cfg.TLS != nil {
		extensions = append(extensions, oidStartTLS)
	}
	add("supportedExtension", true, extensions...)
	// RFC 3673 ("+"), RFC 4526 (true and false filters), RFC 4525 (increment)
	add("supportedFeatures", true, "1.3.6.1.4.1.4203.1.5.1", "1.3.6.1.4.1.4203.1.5.3", "1.3.6.1.1.14")
	if _, ok := peerUID(c.nc); ok || c.certificate() != nil {
		add("supportedSASLMechanisms", true, "EXTERNAL")
	}
	add("subschemaSubentry", true, subschemaDN)
	add("vendorName", true, "Postern")
	if req.filter.match(o, nil) == yes {
		sel := newSelection(req.wanted, nil, req.typesOnly)
		c.entry(req.id, &found{obj: o}, &sel)
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
	c.s.tree.mu.RLock()
	see := c.s.viewOf(c.norm, c.root)
	n, err := c.s.tree.get(req.dn)
	var o *object
	if err == nil {
		o = n.obj
		see.at(n.norm)
	} else if norm, bad := normalDN(req.dn); bad == nil {
		see.at(norm)
	}
	c.s.tree.mu.RUnlock()
	if !see.may(lower, Compare) {
		return codeInsufficientAccess, "", ""
	}
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
func (s *Server) change(req *request, who string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	rec, apply, err := s.plan(req, who)
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
func (s *Server) plan(req *request, who string) (rec []byte, apply func(), err error) {
	t := s.tree
	if req.op == opAdd {
		o, err := t.newObject(req.dn, req.attrs, false)
		if err != nil {
			return nil, nil, err
		}
		o.authored(who)
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
		return s.planModify(n, req, who)
	}
	return s.planModifyDN(n, req, who)
}

// stampChanges are the modifications that go with a change that who makes.
func (s *Server) stampChanges(who string) []change {
	now := s.tree.now()
	return []change{
		{2, attribute{attrCSN, strings.ToLower(attrCSN), []string{s.tree.csn.next(now)}, true}},
		{2, attribute{attrModified, strings.ToLower(attrModified), []string{now.UTC().Format(timestamp)}, true}},
		{2, attribute{attrModifier, strings.ToLower(attrModifier), []string{who}, true}},
	}
}

func (s *Server) planModify(n *node, req *request, who string) ([]byte, func(), error) {
	m, err := s.tree.modified(n.obj, req.changes, false)
	if err != nil {
		return nil, nil, err
	}
	stamps := s.stampChanges(who)
	if m, err = s.tree.modified(m, stamps, true); err != nil {
		return nil, nil, err
	}
	rec := appendChanges(nil, n.obj.dn, append(slices.Clip(req.changes), stamps...))
	return rec, func() { s.tree.replace(n, m) }, nil
}

func (s *Server) planModifyDN(n *node, req *request, who string) ([]byte, func(), error) {
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
	stamps := s.stampChanges(who)
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

package embedded

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// attribute is one attribute of an object. oper marks operational attributes,
// which the server keeps and returns only when they are asked for.
type attribute struct {
	name   string // as spelled
	lower  string
	values []string
	oper   bool
}

// object is one version of an entry. It is never changed.
type object struct {
	dn    string
	attrs []attribute
}

func (o *object) find(lower string) *attribute {
	for i := range o.attrs {
		if o.attrs[i].lower == lower {
			return &o.attrs[i]
		}
	}
	return nil
}

func (o *object) has(lower string) bool {
	for i := range o.attrs {
		if describes(lower, o.attrs[i].lower) {
			return true
		}
	}
	return false
}

// node is the place of an entry in the tree. seq grows with each new entry and
// orders the results of searches.
type node struct {
	seq      uint64
	norm     string // normal form of the name
	parent   *node  // nil for the top of a tree
	children map[*node]struct{}
	obj      *object
}

func (n *node) below(base *node) bool {
	for ; n != nil; n = n.parent {
		if n == base {
			return true
		}
	}
	return false
}

// tree holds all entries. Its lock guards everything but the objects.
type tree struct {
	mu    sync.RWMutex
	nodes map[string]*node
	index map[string]map[string][]*node // attribute, normal value
	seq   uint64
	now   func() time.Time
	csn   csn
}

func newTree(indexes []string, now func() time.Time) *tree {
	t := &tree{nodes: map[string]*node{}, index: map[string]map[string][]*node{}, now: now}
	for _, name := range indexes {
		t.index[strings.ToLower(name)] = map[string][]*node{}
	}
	return t
}

// csn makes change sequence numbers: times that grow with every change.
type csn struct {
	last  time.Time
	count int
}

func (c *csn) next(now time.Time) string {
	now = now.UTC().Truncate(time.Microsecond)
	if now.After(c.last) {
		c.last, c.count = now, 0
	} else {
		c.count++
	}
	return fmt.Sprintf("%s.%06dZ#%06x#000#000000", c.last.Format("20060102150405"), c.last.Nanosecond()/1000, c.count)
}

const (
	maxDepth  = 64                // levels of the tree
	maxMoved  = 10000             // entries that one modifyDN may rename
	timestamp = "20060102150405Z" // generalizedTime
)

// Operational attributes that the server keeps.
const (
	attrCSN      = "entryCSN"
	attrModified = "modifyTimestamp"
	attrCreated  = "createTimestamp"
	attrCreator  = "creatorsName"
	attrModifier = "modifiersName"
	attrUUID     = "entryUUID"
)

func isOperational(lower string) bool {
	switch lower {
	case "entrycsn", "modifytimestamp", "createtimestamp", "entryuuid", "entrydn", "creatorsname",
		"modifiersname", "structuralobjectclass", "subschemasubentry", "hassubordinates":
		return true
	}
	return false
}

// get finds the node of a name. The error carries the nearest existing
// ancestor.
func (t *tree) get(dn string) (*node, error) {
	norm, err := normalDN(dn)
	if err != nil {
		return nil, result(codeInvalidDN, "invalid DN")
	}
	if n := t.nodes[norm]; n != nil {
		return n, nil
	}
	e := &resultError{code: codeNoSuchObject, text: "no such object"}
	for _, up := splitDN(norm); up != ""; _, up = splitDN(up) {
		if n := t.nodes[up]; n != nil {
			e.matched = n.obj.dn
			break
		}
	}
	return nil, e
}

// newObject checks and completes the attributes of a new entry: values of its
// first name part are added when missing, duplicates are refused, operational
// attributes are set unless keep says to keep given ones.
func (t *tree) newObject(dn string, attrs []attribute, keep bool) (*object, error) {
	o := &object{dn: dn}
	for _, a := range attrs {
		a.oper = isOperational(a.lower)
		if a.oper && !keep {
			return nil, result(codeConstraint, a.name+": no user modification allowed")
		}
		if len(a.values) == 0 {
			return nil, result(codeInvalidSyntax, a.name+": no values")
		}
		if have := o.find(a.lower); have != nil {
			have.values = append(slices.Clip(have.values), a.values...)
		} else {
			o.attrs = append(o.attrs, a)
		}
	}
	for i := range o.attrs {
		if v, twice := repeated(o.attrs[i]); twice {
			return nil, result(codeAttributeExists, o.attrs[i].name+": value given twice: "+v)
		}
	}
	o.addNaming(rdnParts(dn))
	o.stamp(t.csn.next(t.now()), t.now(), true)
	return o, nil
}

// stamp sets the operational attributes of a change; present ones stay when
// create is set, so that a journal keeps its times.
func (o *object) stamp(csn string, now time.Time, create bool) {
	set := func(name, value string, keep bool) {
		lower := strings.ToLower(name)
		if a := o.find(lower); a == nil {
			o.attrs = append(o.attrs, attribute{name, lower, []string{value}, true})
		} else if !keep {
			a.values = []string{value}
		}
	}
	at := now.UTC().Format(timestamp)
	set(attrCSN, csn, create)
	set(attrModified, at, create)
	if create {
		set(attrCreated, at, true)
		if o.find("entryuuid") == nil {
			set(attrUUID, newUUID(), true)
		}
	}
}

// authored names who has made a new entry.
func (o *object) authored(who string) {
	for _, name := range []string{attrCreator, attrModifier} {
		o.attrs = append(o.attrs, attribute{name, strings.ToLower(name), []string{who}, true})
	}
}

// newUUID is a random UUID (RFC 4122 4.4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func repeated(a attribute) (string, bool) {
	if len(a.values) < 2 {
		return "", false
	}
	seen := make(map[string]struct{}, len(a.values))
	for _, v := range a.values {
		n := normalValue(a.lower, v)
		if _, ok := seen[n]; ok {
			return v, true
		}
		seen[n] = struct{}{}
	}
	return "", false
}

func indexOf(a attribute, value string) int {
	n := normalValue(a.lower, value)
	return slices.IndexFunc(a.values, func(v string) bool { return normalValue(a.lower, v) == n })
}

// place says where a new entry of that name goes: its normal form and its
// parent, nil when top allows an entry without one.
func (t *tree) place(dn string, top bool) (norm string, parent *node, err error) {
	norm, err = normalDN(dn)
	if err != nil || norm == "" {
		return "", nil, result(codeInvalidDN, "invalid DN")
	}
	if t.nodes[norm] != nil {
		return "", nil, result(codeEntryExists, "entry exists")
	}
	if _, up := splitDN(norm); up != "" {
		parent = t.nodes[up]
	}
	if parent == nil && !top {
		_, err := t.get(dn)
		return "", nil, err
	}
	depth := 0
	for p := parent; p != nil; p = p.parent {
		depth++
	}
	if depth > maxDepth {
		return "", nil, result(codeAdminLimit, "tree too deep")
	}
	return norm, parent, nil
}

// insert puts a new object into its place.
func (t *tree) insert(o *object, norm string, parent *node) {
	t.seq++
	n := &node{seq: t.seq, norm: norm, obj: o}
	t.nodes[norm] = n
	n.attach(parent)
	t.reindex(n, nil, o)
}

func (n *node) attach(parent *node) {
	if n.parent != nil {
		delete(n.parent.children, n)
	}
	n.parent = parent
	if parent != nil {
		if parent.children == nil {
			parent.children = map[*node]struct{}{}
		}
		parent.children[n] = struct{}{}
	}
}

// remove takes out a node that has no children.
func (t *tree) remove(n *node) {
	t.reindex(n, n.obj, nil)
	delete(t.nodes, n.norm)
	n.attach(nil)
}

func (t *tree) replace(n *node, o *object) {
	t.reindex(n, n.obj, o)
	n.obj = o
}

// reindex changes the indexes from what old has to what o has.
func (t *tree) reindex(n *node, old, o *object) {
	for name, values := range t.index {
		had, has := keysOf(old, name), keysOf(o, name)
		for k := range had {
			if _, stays := has[k]; stays {
				continue
			}
			list := values[k]
			if i := slices.Index(list, n); i >= 0 {
				// Searches hold no lists once the lock is released, so deleting
				// in place is safe.
				list = slices.Delete(list, i, i+1)
			}
			if len(list) == 0 {
				delete(values, k)
			} else {
				values[k] = list
			}
		}
		for k := range has {
			if _, was := had[k]; !was {
				values[k] = append(values[k], n)
			}
		}
	}
}

func keysOf(o *object, name string) map[string]struct{} {
	if o == nil {
		return nil
	}
	var keys map[string]struct{}
	for i := range o.attrs {
		a := &o.attrs[i]
		if !describes(name, a.lower) {
			continue
		}
		if keys == nil {
			keys = make(map[string]struct{}, len(a.values))
		}
		for _, v := range a.values {
			keys[normalValue(a.lower, v)] = struct{}{}
		}
	}
	return keys
}

func (t *tree) size(n *node) int {
	total := 1
	for c := range n.children {
		total += t.size(c)
	}
	return total
}

// rekey renames n in the map of names, and its descendants after it.
func (t *tree) rekey(n *node, norm string) {
	delete(t.nodes, n.norm)
	n.norm = norm
	t.nodes[norm] = n
	for c := range n.children {
		rdn, _ := splitDN(c.norm)
		spelled, _ := splitDN(c.obj.dn)
		c.obj = &object{dn: spelled + "," + n.obj.dn, attrs: c.obj.attrs}
		t.rekey(c, rdn+","+norm)
	}
}

// search calls visit for each entry in scope that may match f, in the order of
// seq and beginning after the entry numbered after. It stops when visit does.
func (t *tree) search(base *node, scope int64, f *filter, after uint64, visit func(*node) error) error {
	if scope == 0 {
		if base == nil || base.seq <= after {
			return nil
		}
		return visit(base)
	}
	list, indexed := t.candidates(f)
	if !indexed {
		list = t.collect(base, scope, nil)
	}
	if !slices.IsSortedFunc(list, bySeq) {
		list = slices.Clone(list)
		slices.SortFunc(list, bySeq)
	}
	from, _ := slices.BinarySearchFunc(list, after+1, func(n *node, seq uint64) int {
		switch {
		case n.seq < seq:
			return -1
		case n.seq > seq:
			return 1
		}
		return 0
	})
	for _, n := range list[from:] {
		if indexed && (scope == 1 && n.parent != base || scope == 2 && base != nil && !n.below(base)) {
			continue
		}
		if err := visit(n); err != nil {
			return err
		}
	}
	return nil
}

func bySeq(a, b *node) int {
	switch {
	case a.seq < b.seq:
		return -1
	case a.seq > b.seq:
		return 1
	}
	return 0
}

// candidates returns a superset of the entries that match f, from the
// indexes; false when they cannot tell. The list belongs to the index.
func (t *tree) candidates(f *filter) ([]*node, bool) {
	switch f.kind {
	case filterEqual:
		if f.attr == "entrydn" {
			if n := t.nodes[f.value]; n != nil {
				return []*node{n}, true
			}
			return nil, true
		}
		values, ok := t.index[f.attr]
		if !ok {
			return nil, false
		}
		return values[f.value], true
	case filterAnd:
		var best []*node
		found := false
		for _, c := range f.children {
			if list, ok := t.candidates(c); ok && (!found || len(list) < len(best)) {
				best, found = list, true
			}
		}
		return best, found
	case filterOr:
		var all []*node
		shared := true // all is still the index's own list
		for _, c := range f.children {
			list, ok := t.candidates(c)
			switch {
			case !ok:
				return nil, false
			case len(list) == 0:
			case len(all) == 0:
				all = list
			default:
				if shared {
					all, shared = slices.Clone(all), false
				}
				all = append(all, list...)
			}
		}
		if !shared {
			slices.SortFunc(all, bySeq)
			all = slices.Compact(all)
		}
		return all, true
	}
	return nil, false
}

func (t *tree) collect(base *node, scope int64, out []*node) []*node {
	if base == nil { // all trees
		for _, n := range t.nodes {
			if scope == 2 || n.parent == nil {
				out = append(out, n)
			}
		}
		return out
	}
	if scope == 2 {
		out = append(out, base)
	}
	for c := range base.children {
		if scope == 2 {
			out = t.collect(c, scope, out)
		} else {
			out = append(out, c)
		}
	}
	return out
}

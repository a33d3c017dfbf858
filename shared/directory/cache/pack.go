package cache

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/shared/directory"
)

// An entry as it is used takes some 1.7 KB: most of that are fields that it does
// not have, and the headers of strings. What is remembered is therefore its
// attributes in one string, and the entry is read again by the schema whenever it
// is asked for, as those of a file are (see Save):
//
//	flags  detail  number of entries  entry ...
//
// and an entry is its name, mailbox, the time of its answer, the numbers of its
// attributes and of all their values, and the attributes: each a name, as its
// number among those of the cache or 0 and the name itself, the number of its
// values and the values.
type packed struct {
	text   string
	domain *directory.Domain // of each entry
}

const catchAll = 1 // flag

// maxNames bounds the names of attributes that have a number.
const maxNames = 4096

// packing packs and reads entries. Any number of goroutines may use it.
type packing struct {
	schema *directory.Schema // nil: nothing is packed

	mu      sync.RWMutex // guards numbers; names only grow with it held
	numbers map[string]uint64
	names   atomic.Pointer[[]string] // by their numbers
}

func newPacking(s *directory.Schema) *packing {
	p := &packing{schema: s, numbers: map[string]uint64{}}
	p.names.Store(&[]string{""}) // 0 is no name
	return p
}

// number is that of the name of an attribute, 0 when there are too many.
func (p *packing) number(name string) uint64 {
	p.mu.RLock()
	n := p.numbers[name]
	p.mu.RUnlock()
	if n > 0 {
		return n
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	names := *p.names.Load()
	if n = p.numbers[name]; n > 0 || len(names) == maxNames {
		return n
	}
	n = uint64(len(names))
	p.numbers[name] = n
	names = append(names[:n:n], name) // readers have the old one
	p.names.Store(&names)
	return n
}

// pack packs the entries of one answer; ok is false when they stay as they are.
func (p *packing) pack(ans *directory.Answer) (k packed, ok bool) {
	if p.schema == nil || len(ans.Entries) == 0 {
		return packed{}, false
	}
	var buf [2048]byte
	w := writer{b: buf[:0]}
	flags := 0
	if ans.CatchAll {
		flags = catchAll
	}
	w.number(flags)
	w.string(ans.Detail)
	w.number(len(ans.Entries))
	k.domain = ans.Entries[0].Domain
	for _, e := range ans.Entries {
		if e.Domain != k.domain {
			return packed{}, false
		}
		p.entry(&w, e)
	}
	k.text = string(w.b)
	return k, true
}

func (p *packing) entry(w *writer, e *directory.Entry) {
	w.string(e.DN)
	w.string(e.Mailbox)
	at := int64(0)
	if !e.Fetched.IsZero() {
		at = e.Fetched.UnixNano()
	}
	w.b = binary.AppendVarint(w.b, at)
	values := 0
	for i := range e.Raw {
		values += len(e.Raw[i].Values)
	}
	w.number(len(e.Raw))
	w.number(values)
	for i := range e.Raw {
		n := p.number(e.Raw[i].Name)
		w.b = binary.AppendUvarint(w.b, n)
		if n == 0 {
			w.string(e.Raw[i].Name)
		}
		w.number(len(e.Raw[i].Values))
		for _, v := range e.Raw[i].Values {
			w.string(v)
		}
	}
}

// open is what was packed. Its strings are parts of the packed one.
func (p *packing) open(k packed) *directory.Answer {
	t := text(k.text)
	ans := &directory.Answer{CatchAll: t.number() == catchAll, Detail: t.string()}
	ans.Entries = make([]*directory.Entry, t.number())
	names := *p.names.Load()
	for i := range ans.Entries {
		ans.Entries[i] = p.read(&t, names, k.domain)
	}
	return ans
}

func (p *packing) read(t *text, names []string, d *directory.Domain) *directory.Entry {
	dn, mailbox, at := t.string(), t.string(), t.signed()
	raw := make(directory.Attributes, t.number())
	values := make([]string, t.number())
	for i := range raw {
		if n := t.number(); n > 0 {
			raw[i].Name = names[n]
		} else {
			raw[i].Name = t.string()
		}
		n := t.number()
		raw[i].Values, values = values[:n:n], values[n:]
		for j := range raw[i].Values {
			raw[i].Values[j] = t.string()
		}
	}
	e := p.schema.ReadEntry(dn, raw)
	e.Domain, e.Mailbox = d, mailbox
	if at != 0 {
		e.Fetched = time.Unix(0, at)
	}
	return e
}

// text is what is left of a packed string. It is ours, and whole.
type text string

func (t *text) number() int { return int(t.unsigned()) }

func (t *text) unsigned() (n uint64) {
	for shift := 0; ; shift += 7 {
		b := (*t)[0]
		*t = (*t)[1:]
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
}

func (t *text) signed() int64 { // as binary.AppendVarint has it
	n := t.unsigned()
	return int64(n>>1) ^ -int64(n&1)
}

func (t *text) string() string {
	n := t.number()
	s := string((*t)[:n])
	*t = (*t)[n:]
	return s
}

package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/fsx"
)

// The file of a cache is
//
//	magic  about  record ...  SHA-256 of all before
//
// where about is the time of writing, in seconds, and the name of the directory
// that the answers are from. A record is a kind, the time of the answer and
// strings, each with its length before it:
//
//	'd' key, Domain as JSON
//	'a' key, name of the domain, detail, "c" for a catch-all, entry ...
//	'e' key, entry
//
// and an entry is its name, mailbox, and the number of its attributes, each with
// name, number of values and values. Entries are read again by the schema, so
// that a new release finds in old files what it looks for. Logins, passwords and
// answers of "nobody" are not written, nor attributes with passwords.
const magic = "postern directory cache 1\n"

const (
	maxFile    = 256 << 20 // octets of a file that is read
	maxStrings = 1 << 20   // attributes or values of an entry
	maxAhead   = 5 * time.Minute
)

// Persistence says where answers are kept for the next start.
type Persistence struct {
	FS     fsx.FS // fsx.OS by default
	Path   string
	About  string // names the directory and schema; another one's file is not read
	Bytes  int    // most octets that are written, 64 MB
	Every  time.Duration
	Schema *directory.Schema // reads the entries
	Log    *slog.Logger
}

func (p *Persistence) fill() {
	if p.FS == nil {
		p.FS = fsx.OS
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&p.Bytes, 64<<20)
	setDefault(&p.Every, 5*time.Minute)
}

// writer appends the parts of a file.
type writer struct {
	b      []byte
	secret func(attribute string) bool

	out     io.Writer // takes what b has, now and then
	written int
	err     error // of out
}

// record ends a record.
func (w *writer) record() {
	if len(w.b) >= 1<<16 {
		w.flush()
	}
}

// flush gives what b has to out.
func (w *writer) flush() {
	if w.err == nil {
		_, w.err = w.out.Write(w.b)
	}
	w.written += len(w.b)
	w.b = w.b[:0]
}

func (w *writer) string(s string) {
	w.b = binary.AppendUvarint(w.b, uint64(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) number(n int) { w.b = binary.AppendUvarint(w.b, uint64(n)) }

func (w *writer) time(t time.Time) { w.b = binary.AppendVarint(w.b, t.Unix()) }

func (w *writer) entry(e *directory.Entry) {
	w.string(e.DN)
	w.string(e.Mailbox)
	raw := w.withoutSecrets(e.Raw)
	w.number(len(raw))
	for i := range raw {
		w.string(raw[i].Name)
		w.number(len(raw[i].Values))
		for _, v := range raw[i].Values {
			w.string(v)
		}
	}
}

// secret reports whether an attribute holds passwords, by whatever name the
// site has for it.
func (p *Persistence) secret(name string) bool {
	name, _, _ = strings.Cut(name, ";")
	own := ""
	if p.Schema != nil {
		own = p.Schema.AuthPassword
	}
	return directory.Secret(name) || own != "" && strings.EqualFold(name, own)
}

// guarded reports whether an entry says something else without its secrets: a
// list that its password protects would be open to all. It is not written.
func guarded(e *directory.Entry) bool { return e.List != nil && e.List.Password != "" }

// Save writes the answers that are not too old to the file of p, replacing it
// whole. When they are more than p.Bytes some are left out.
func (c *Cache) Save(p Persistence) error {
	p.fill()
	return fsx.WriteAtomic(p.FS, p.Path, func(file io.Writer) error {
		sum := sha256.New()
		w := &writer{b: make([]byte, 0, 1<<17), secret: p.secret, out: io.MultiWriter(file, sum)}
		c.write(w, &p)
		if w.flush(); w.err != nil {
			return w.err
		}
		_, err := file.Write(sum.Sum(nil))
		return err
	})
}

// write writes all but the checksum.
func (c *Cache) write(w *writer, p *Persistence) {
	w.b = append(w.b, magic...)
	w.time(time.Now())
	w.string(p.About)
	written := map[string]bool{} // domains
	room := func() bool { return w.err == nil && w.written+len(w.b) < p.Bytes }
	each(c, c.domains, func(key string, domain *directory.Domain, at time.Time) {
		// A domain without one of its owners would turn away what that one gets.
		if !room() || slices.ContainsFunc(domain.CatchAllOwners, guarded) {
			return
		}
		d := *domain
		d.Raw, d.CatchAllOwners = w.withoutSecrets(d.Raw), nil
		for _, e := range domain.CatchAllOwners {
			plain := *e
			plain.Raw, plain.Domain = w.withoutSecrets(e.Raw), nil
			d.CatchAllOwners = append(d.CatchAllOwners, &plain)
		}
		text, err := json.Marshal(&d)
		if err != nil {
			return
		}
		w.b = append(w.b, 'd')
		w.time(at)
		w.string(key)
		w.string(string(text))
		w.record()
		written[d.Name] = true
	})
	each(c, c.addresses, func(key string, ans *directory.Answer, at time.Time) {
		if len(ans.Entries) == 0 || slices.ContainsFunc(ans.Entries, guarded) || !room() {
			return
		}
		domain := ""
		if d := ans.Entries[0].Domain; d != nil {
			domain = d.Name
		}
		if !written[domain] {
			return
		}
		w.b = append(w.b, 'a')
		w.time(at)
		w.string(key)
		w.string(domain)
		w.string(ans.Detail)
		if ans.CatchAll {
			w.string("c")
		} else {
			w.string("")
		}
		w.number(len(ans.Entries))
		for _, e := range ans.Entries {
			w.entry(e)
		}
		w.record()
	})
	each(c, c.entries, func(key string, e *directory.Entry, at time.Time) {
		if room() && !guarded(e) {
			w.b = append(w.b, 'e')
			w.time(at)
			w.string(key)
			w.entry(e)
			w.record()
		}
	})
}

func (w *writer) withoutSecrets(raw directory.Attributes) directory.Attributes {
	out := make(directory.Attributes, 0, len(raw))
	for i := range raw {
		if !w.secret(raw[i].Name) {
			out = append(out, raw[i])
		}
	}
	return out
}

// each calls f with every positive answer that may still be used.
func each[V any](c *Cache, t *table[V], f func(key string, v V, at time.Time)) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.RLock()
		now := c.now()
		keys, list := make([]string, 0, len(sh.m)), make([]found[V], 0, len(sh.m))
		for _, s := range sh.m {
			if s.err == nil && now-s.at < int64(c.cfg.Stale) {
				keys = append(keys, string(sh.keyOf(s)))
				list = append(list, found[V]{t: t, slot: s, packed: string(sh.textOf(s))})
			}
		}
		sh.mu.RUnlock()
		for i := range list {
			v, _ := list[i].answer()
			f(keys[i], v, c.start.Add(time.Duration(list[i].at)))
		}
	}
}

var errDamaged = errors.New("damaged")

// reader takes a file apart. After a failure it returns zeros, and err.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() { r.b, r.err = nil, errDamaged }

func (r *reader) string() string {
	n, k := binary.Uvarint(r.b)
	if k <= 0 || n > uint64(len(r.b)-k) {
		r.fail()
		return ""
	}
	s := string(r.b[k : k+int(n)])
	r.b = r.b[k+int(n):]
	return s
}

// number reads a count of things of at least one octet each.
func (r *reader) number() int {
	n, k := binary.Uvarint(r.b)
	if k <= 0 || n > maxStrings || n > uint64(len(r.b)-k) {
		r.fail()
		return 0
	}
	r.b = r.b[k:]
	return int(n)
}

func (r *reader) time() time.Time {
	n, k := binary.Varint(r.b)
	if k <= 0 {
		r.fail()
		return time.Time{}
	}
	r.b = r.b[k:]
	return time.Unix(n, 0)
}

func (r *reader) entry(s *directory.Schema, at time.Time) *directory.Entry {
	dn, mailbox := r.string(), r.string()
	raw := make(directory.Attributes, r.number())
	for i := range raw {
		raw[i].Name = r.string()
		raw[i].Values = make([]string, r.number())
		for j := range raw[i].Values {
			raw[i].Values[j] = r.string()
		}
	}
	if r.err != nil {
		return nil
	}
	e := s.ReadEntry(dn, raw)
	e.Mailbox, e.Fetched = mailbox, at
	return e
}

// Load reads what Save has written, as answers of the time when they were
// given, and returns how many. It is called before the first question. A file
// that is missing, damaged, of another version or from another directory is no
// error: the cache begins empty and the log says why.
func (c *Cache) Load(p Persistence) int {
	p.fill()
	data, err := fsx.ReadFile(p.FS, p.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	n := 0
	if err == nil {
		n, err = c.load(data, &p)
	}
	if err != nil {
		c.Flush()
		p.Log.Warn("directory cache of the last run is not used", "file", p.Path, "error", err)
		return 0
	}
	p.Log.Info("directory cache of the last run is loaded", "file", p.Path, "answers", n)
	return n
}

func (c *Cache) load(data []byte, p *Persistence) (n int, err error) {
	if len(data) > maxFile {
		return 0, fmt.Errorf("%d octets are too many", len(data))
	}
	body := len(data) - sha256.Size
	if body < len(magic) || string(data[:len(magic)]) != magic {
		return 0, errors.New("not a cache of this version")
	}
	if sum := sha256.Sum256(data[:body]); string(sum[:]) != string(data[body:]) {
		return 0, fmt.Errorf("%w: checksum", errDamaged)
	}
	r := &reader{b: data[len(magic):body]}
	written, about := r.time(), r.string()
	switch {
	case r.err != nil:
		return 0, r.err
	case about != p.About:
		return 0, errors.New("it is of another directory")
	case written.After(time.Now().Add(maxAhead)):
		return 0, errors.New("it is from the future")
	}
	domains := map[string]*directory.Domain{}
	for len(r.b) > 0 {
		kind := r.b[0]
		r.b = r.b[1:]
		ok, err := c.loadOne(kind, r, p, domains)
		if err != nil {
			return 0, err
		}
		if ok {
			n++
		}
	}
	return n, r.err
}

// loadOne reads one record. It is left out when it is too old by now.
func (c *Cache) loadOne(kind byte, r *reader, p *Persistence, domains map[string]*directory.Domain) (ok bool, err error) {
	at, key := r.time(), r.string()
	age := max(0, time.Since(at))
	usable := age < c.cfg.Stale
	switch kind {
	case 'd':
		d := new(directory.Domain)
		text := r.string()
		if r.err != nil {
			return false, r.err
		}
		if err := json.Unmarshal([]byte(text), d); err != nil || d.Name == "" {
			return false, fmt.Errorf("%w: domain", errDamaged)
		}
		d.Fetched = at
		if domains[d.Name] == nil || key == d.Name {
			domains[d.Name] = d
		}
		if usable {
			restore(c, c.domains, key, d, age)
		}
	case 'a':
		d := domains[r.string()]
		ans := &directory.Answer{Detail: r.string(), CatchAll: r.string() == "c"}
		for range r.number() {
			e := r.entry(p.Schema, at)
			if e != nil {
				e.Domain = d
				ans.Entries = append(ans.Entries, e)
			}
		}
		if r.err != nil {
			return false, r.err
		}
		if usable = usable && d != nil && len(ans.Entries) > 0; usable {
			restore(c, c.addresses, key, ans, age)
		}
	case 'e':
		e := r.entry(p.Schema, at)
		if r.err != nil {
			return false, r.err
		}
		if usable {
			restore(c, c.entries, key, e, age)
		}
	default:
		return false, fmt.Errorf("%w: unknown record", errDamaged)
	}
	return usable, r.err
}

// restore remembers an answer that was given age ago.
func restore[V any](c *Cache, t *table[V], key string, v V, age time.Duration) {
	at := c.now() - int64(age)
	e := &slot[V]{at: at, fresh: at + int64(c.cfg.TTL)}
	text := t.set(e, v)
	s := t.shard(maphash.String(t.seed, key))
	s.mu.Lock()
	t.put(s, e, key, text)
	s.mu.Unlock()
}

// Keep saves the cache now and then until ctx ends, and once more then; not when
// nothing was asked since.
func (c *Cache) Keep(ctx context.Context, p Persistence) {
	p.fill()
	var saved uint64
	save := func() {
		asked := c.Stats().Misses
		if asked == saved {
			return
		}
		saved = asked
		if err := c.Save(p); err != nil {
			p.Log.Warn("directory cache cannot be saved", "file", p.Path, "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			save()
			return
		case <-time.After(p.Every):
			save()
		}
	}
}

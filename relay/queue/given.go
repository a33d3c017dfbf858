package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

// A message may become several in the queue, all under its root id: the pieces
// of its lists, forwards, what a list in a list was put off for. Two of them can
// lead to the same address. A pair drops the second by its delivery key; on the
// way outside nobody would, so that ROOT.rcpt, in the subdirectory of the root,
// says which message has which recipient. It is blocks:
//
//	CRC-32C of the rest of the block   4 octets, little endian
//	kind                               'c' claims, 'q' the message is queued
//	length of the queue id, queue id
//	number of keys, and the keys       4 octets; 16 octets each
//
// Submit writes the claims before the message and 'q' after it. A claim counts
// when 'q' follows or the message is there: it waits for its parent, which waits
// for Submit. So a message that a crash has undone takes nobody's copy away, and
// of several claims the last one counts. What is damaged ends the file: somebody
// may then get two copies, and nobody none.
//
// The file lives as long as something of this root may still be expanded, and is
// looked at by one Submit of the root at a time. A message that is the last one
// that can be made of its root needs none.
type given struct {
	locks [64]sync.Mutex // by root id, held while a message of it is submitted

	mu    sync.Mutex          // guards the fields below
	open  map[string][]string // by root id: messages that may still be expanded
	files map[string]bool     // root ids that have a file
	gone  map[string]bool     // removed before all of the queue had been seen; nil then
}

const (
	givenExt    = ".rcpt"
	blockClaims = 'c'
	blockQueued = 'q'
)

// mayExpand reports whether another message may be made of it.
func mayExpand(it *Item) bool { return expandable(it) > 0 }

// expandable counts the recipients that another message may be made of.
func expandable(it *Item) (n int) {
	for i := range it.Recipients {
		if r := &it.Recipients[i]; r.State == Pending && (r.Channel == mail.ChannelReprocess || r.Channel == mail.ChannelHold) {
			n++
		}
	}
	return n
}

// outside reports whether nobody behind r knows deliveries by their keys.
func outside(r *Recipient) bool {
	return r.State == Pending && r.Channel == mail.ChannelSMTP && r.Key != (mail.DeliveryKey{})
}

// added notes it, which is about to be in the queue, perhaps once more.
func (g *given) added(it *Item) {
	g.mu.Lock()
	delete(g.gone, it.ID())
	g.mu.Unlock()
	g.note(it)
}

// note remembers that it may be expanded.
func (g *given) note(it *Item) {
	if !mayExpand(it) {
		return
	}
	root, id := it.Envelope.RootID, it.ID()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gone[id] && !slices.Contains(g.open[root], id) {
		g.open[root] = append(g.open[root], id)
	}
}

// has reports whether there is a file of this root.
func (g *given) has(root string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.files[root]
}

// ended forgets it, which is no longer in the queue, and reports whether the file
// of its root is of no more use.
func (g *given) ended(it *Item) bool {
	root, id := it.Envelope.RootID, it.ID()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone != nil {
		g.gone[id] = true
	}
	ids := g.open[root]
	i := slices.Index(ids, id)
	if i < 0 {
		return false
	}
	if ids = slices.Delete(ids, i, i+1); len(ids) > 0 {
		g.open[root] = ids
		return false
	}
	delete(g.open, root)
	useless := g.gone == nil && g.files[root]
	if useless {
		delete(g.files, root)
	}
	return useless
}

// seen is called when all of the queue has been seen, and returns the roots whose
// files are of no more use.
func (g *given) seen() (useless []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = nil
	for root := range g.files {
		if len(g.open[root]) == 0 {
			useless = append(useless, root)
			delete(g.files, root)
		}
	}
	return useless
}

// alone reports whether nothing else can be made of the root of it: nothing of it
// has anybody to be expanded, or its parent only, and that only whom it came of.
func (q *Queue) alone(it *Item) bool {
	root := it.Envelope.RootID
	g := &q.given
	g.mu.Lock()
	open := g.open[root]
	only := g.gone == nil && !g.files[root] && (len(open) == 0 || len(open) == 1 && open[0] == it.Parent.ID)
	g.mu.Unlock()
	switch {
	case !only || mayExpand(it):
		return false
	case len(open) == 0:
		return true
	}
	parent, err := q.Load(it.Parent.ID)
	return err == nil && expandable(parent) == 1
}

// claim is the part that one message has of its root's recipients; nil is none.
type claim struct {
	q    *Queue
	d    *dirSync
	root string
	id   string
	lock *sync.Mutex

	end    int64 // of the blocks of the file
	before bool  // one of them has claims of this message
}

// claim makes the recipients of it its own, and takes those out of it that
// another message of its root has already.
func (q *Queue) claim(it *Item) (*claim, error) {
	root := it.Envelope.RootID
	d := q.dir(root)
	if d == nil || it.Parent.ID == "" && !mayExpand(it) && !it.Beside {
		return nil, nil
	}
	if !q.given.has(root) && !slices.ContainsFunc(it.Recipients, func(r Recipient) bool { return outside(&r) }) {
		return nil, nil
	}
	c := &claim{q: q, d: d, root: root, id: it.ID(), lock: &q.given.locks[crc32.ChecksumIEEE([]byte(root))%64]}
	c.lock.Lock()
	if it.Parent.ID != "" && q.alone(it) {
		c.lock.Unlock()
		return nil, nil
	}
	if err := c.take(it); err != nil {
		c.lock.Unlock()
		return nil, err
	}
	return c, nil
}

func (c *claim) take(it *Item) error {
	owners := make(map[mail.DeliveryKey]string, len(it.Recipients))
	for i := range it.Recipients {
		if outside(&it.Recipients[i]) {
			owners[it.Recipients[i].Key] = ""
		}
	}
	queued, err := c.read(owners)
	if err != nil {
		return err
	}
	var mine []mail.DeliveryKey
	taken := func(r *Recipient) bool {
		if !outside(r) {
			return false
		}
		owner := owners[r.Key]
		if owner != c.id && owner != "" && (queued[owner] || c.there(owner)) {
			metrics.Duplicates.Inc()
			c.q.cfg.Log.Info("recipient has this message already", "queue_id", c.id, "recipient", r.Address.String(), "by", owner)
			return true
		}
		mine = append(mine, r.Key)
		return false
	}
	kept := it.Recipients[:0]
	for i := range it.Recipients {
		if !taken(&it.Recipients[i]) {
			kept = append(kept, it.Recipients[i])
		}
	}
	it.Recipients = kept
	if queued[c.id] || c.there(c.id) || len(mine) == 0 && !c.before {
		return nil
	}
	return c.append(blockClaims, mine)
}

// there reports whether the queue holds the message id.
func (c *claim) there(id string) bool {
	d := c.q.dir(id)
	if d == nil {
		return false
	}
	f, err := fsx.Open(c.q.cfg.FS, filepath.Join(d.name, id+".env"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // who knows: then it is no second one
	}
	f.Close()
	return true
}

func (c *claim) name() string { return filepath.Join(c.d.name, c.root+givenExt) }

// read finds the owners of the keys in owners, and which messages are queued.
func (c *claim) read(owners map[mail.DeliveryKey]string) (queued map[string]bool, err error) {
	queued = map[string]bool{}
	f, err := fsx.Open(c.q.cfg.FS, c.name())
	if errors.Is(err, fs.ErrNotExist) {
		return queued, nil
	}
	if err != nil {
		return nil, c.q.diskError("open", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, c.q.diskError("size", err)
	}
	var buf []byte
	for {
		var b block
		if buf, b, err = readBlock(f, c.end, size, buf); err != nil {
			return nil, c.q.diskError("read", err)
		}
		if b.size == 0 {
			return queued, nil
		}
		c.end += b.size
		switch b.kind {
		case blockQueued:
			queued[b.id] = true
		case blockClaims:
			c.before = c.before || b.id == c.id
			b.claim(owners)
		}
	}
}

// block is one block of the file; its size is 0 where the file ends.
type block struct {
	size int64
	kind byte
	id   string
	keys []byte // until the next one is read
}

// claim enters the claims of b into owners, for the keys that are asked for.
func (b *block) claim(owners map[mail.DeliveryKey]string) {
	for key, owner := range owners {
		if owner == b.id {
			owners[key] = ""
		}
	}
	const n = len(mail.DeliveryKey{})
	for k := b.keys; len(k) > 0; k = k[n:] {
		if _, asked := owners[mail.DeliveryKey(k[:n])]; asked {
			owners[mail.DeliveryKey(k[:n])] = b.id
		}
	}
}

// readBlock reads the block at an offset into buf, which grows if need be.
func readBlock(f fsx.File, at, size int64, buf []byte) ([]byte, block, error) {
	const fixed = 4 + 1 + 1 + 4 // of a block, besides id and keys
	read := func(n int64) (ok bool, err error) {
		if n > size-at {
			return false, nil
		}
		buf = slices.Grow(buf[:0], int(n))[:n]
		_, err = f.ReadAt(buf, at)
		return err == nil, err
	}
	if ok, err := read(fixed - 4); !ok {
		return buf, block{}, err
	}
	n := int64(buf[5])
	if ok, err := read(fixed + n); !ok {
		return buf, block{}, err
	}
	keys := int64(binary.LittleEndian.Uint32(buf[6+n:]))
	if keys > maxRecipients {
		return buf, block{}, nil
	}
	if ok, err := read(fixed + n + keys*int64(len(mail.DeliveryKey{}))); !ok {
		return buf, block{}, err
	}
	if crc32.Checksum(buf[4:], castagnoli) != binary.LittleEndian.Uint32(buf) {
		return buf, block{}, nil
	}
	return buf, block{int64(len(buf)), buf[4], string(buf[6 : 6+n]), buf[fixed+n:]}, nil
}

// append makes a block durable.
func (c *claim) append(kind byte, keys []mail.DeliveryKey) error {
	b := make([]byte, 4, 64+16*len(keys))
	b = append(b, kind, byte(len(c.id)))
	b = append(b, c.id...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(keys)))
	for i := range keys {
		b = append(b, keys[i][:]...)
	}
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	f, err := c.q.cfg.FS.OpenFile(c.name(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return c.q.diskError("create", err)
	}
	if _, err = f.WriteAt(b, c.end); err != nil {
		err = c.q.diskError("write", err)
	} else {
		err = c.q.synced(f.Sync())
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = c.q.diskError("close", cerr)
	}
	if err == nil && c.end == 0 {
		err = c.d.sync()
	}
	if err != nil {
		return err
	}
	c.end += int64(len(b))
	g := &c.q.given
	g.mu.Lock()
	g.files[c.root] = true
	g.mu.Unlock()
	return nil
}

// done ends a claim, when its message is in the queue for good or, with queued
// false, is not.
func (c *claim) done(queued bool) {
	if c == nil {
		return
	}
	defer c.lock.Unlock()
	if !queued || c.end == 0 {
		return
	}
	// The message is ours whatever happens here. Without this block a crash, much
	// later, may let another one have the same recipients.
	if err := c.append(blockQueued, nil); err != nil {
		c.q.cfg.Log.Error("not noted that a message is queued", "queue_id", c.id, "file", c.name(), "error", err)
	}
}

// dropGiven removes the file of a root of which nothing comes any more.
func (q *Queue) dropGiven(root string) {
	name := filepath.Join(q.dir(root).name, root+givenExt)
	if err := q.cfg.FS.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		q.cfg.Log.Warn("file of recipients not removed", "file", name, "error", fmt.Errorf("queue: %w", err))
	}
}

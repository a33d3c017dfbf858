package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// The journal is LDIF: entries as additions, then changes in order. It is
// rewritten as additions only when it is opened with more than
// compactAfter changes and more changes than entries.
const compactAfter = 5000

// journal appends records and syncs them. After a failed write nothing more is
// written: what is on disk is then unknown.
type journal struct {
	f      *os.File
	broken error
}

func (j *journal) append(rec []byte) error {
	if j == nil {
		return nil
	}
	if j.broken != nil {
		return fmt.Errorf("journal failed before: %w", j.broken)
	}
	_, err := j.f.Write(rec)
	if err == nil {
		err = j.f.Sync()
	}
	j.broken = err
	return err
}

func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return j.f.Close()
}

// loadLDIF puts the records of r into the tree. Entries may come before their
// parents; missing ancestors below a suffix, or below another entry, are made
// up as plain organizationalUnit-like entries.
func (t *tree) loadLDIF(r io.Reader, suffixes []string) error {
	var entries []*record
	lr := newLDIFReader(r)
	for {
		rec, err := lr.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if rec.op != opAdd {
			return &LDIFError{rec.line, errors.New("a change where only entries are expected")}
		}
		entries = append(entries, rec)
	}
	names := make(map[string]bool, len(entries))
	depth := make(map[*record]int, len(entries))
	for _, rec := range entries {
		norm, err := normalDN(rec.dn)
		if err != nil || norm == "" {
			return &LDIFError{rec.line, fmt.Errorf("invalid DN %.80q", rec.dn)}
		}
		names[norm] = true
		for ; norm != ""; _, norm = splitDN(norm) {
			depth[rec]++
		}
	}
	for _, suffix := range suffixes {
		norm, err := normalDN(suffix)
		if err != nil || norm == "" {
			return fmt.Errorf("suffix %q: invalid DN", suffix)
		}
		if !names[norm] {
			if err := t.fill(suffix); err != nil {
				return err
			}
		}
	}
	slices.SortStableFunc(entries, func(a, b *record) int { return depth[a] - depth[b] })
	for _, rec := range entries {
		if err := t.ancestors(rec.dn, names); err != nil {
			return &LDIFError{rec.line, err}
		}
		if err := t.add(rec); err != nil {
			return &LDIFError{rec.line, err}
		}
	}
	return nil
}

// add inserts the entry of rec, which may be the top of a tree.
func (t *tree) add(rec *record) error {
	o, err := t.newObject(rec.dn, rec.attrs, true)
	if err != nil {
		return err
	}
	norm, parent, err := t.place(rec.dn, true)
	if err != nil {
		return err
	}
	t.insert(o, norm, parent)
	return nil
}

// ancestors makes the entries that are missing between dn and the nearest one
// that exists. Without any, dn is the top of a tree of its own.
func (t *tree) ancestors(dn string, coming map[string]bool) error {
	var missing []string
	for _, up := splitDN(dn); up != ""; _, up = splitDN(up) {
		norm, err := normalDN(up)
		if err != nil {
			return err
		}
		if t.nodes[norm] != nil {
			slices.Reverse(missing)
			for _, m := range missing {
				if err := t.fill(m); err != nil {
					return err
				}
			}
			return nil
		}
		if !coming[norm] {
			missing = append(missing, up)
		}
	}
	return nil
}

// fill makes an entry that only holds a place in the tree.
func (t *tree) fill(dn string) error {
	return t.add(&record{dn: dn, attrs: []attribute{{
		name: "objectClass", lower: "objectclass", values: []string{"top", "extensibleObject"},
	}}})
}

// replay applies one record of the journal.
func (t *tree) replay(rec *record) error {
	if rec.op == opAdd {
		return t.add(rec)
	}
	n, err := t.get(rec.dn)
	if err != nil {
		return err
	}
	switch rec.op {
	case opDelete:
		if len(n.children) > 0 {
			return errors.New("entry has children")
		}
		t.remove(n)
	case opModify:
		o, err := t.modified(n.obj, rec.changes, true)
		if err != nil {
			return err
		}
		t.replace(n, o)
	case opModifyDN:
		superior := n.parent
		if rec.hasSuperior {
			if superior, err = t.get(rec.newSuperior); err != nil {
				return err
			}
		}
		o, norm, err := t.renamed(n, rec.newRDN, rec.deleteOld, superior)
		if err != nil {
			return err
		}
		t.rename(n, o, norm, superior)
	}
	return nil
}

// openJournal loads the journal at path into t, or begins it with what seed
// loads when there is none. A last record that a crash cut short is removed.
func openJournal(t *tree, path string, seed func() error) (*journal, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := seed(); err != nil {
			return nil, err
		}
		if err := writeAll(t, path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		end, changes, err := replayAll(t, data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if changes > compactAfter && changes > len(t.nodes) {
			if err := writeAll(t, path); err != nil {
				return nil, err
			}
		} else if end < int64(len(data)) {
			if err := os.Truncate(path, end); err != nil {
				return nil, err
			}
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return nil, err
	}
	return &journal{f: f}, nil
}

// replayAll returns where the last whole record ends.
func replayAll(t *tree, data []byte) (end int64, changes int, err error) {
	lr := newLDIFReader(bytes.NewReader(data))
	for {
		rec, err := lr.next()
		if err == io.EOF {
			return end, changes, nil
		}
		if err != nil || !lr.complete {
			if torn(data[end:]) {
				return end, changes, nil
			}
			if err == nil {
				err = &LDIFError{rec.line, errors.New("record without an end")}
			}
			return 0, 0, err
		}
		if err := t.replay(rec); err != nil {
			return 0, 0, &LDIFError{rec.line, err}
		}
		if rec.op != opAdd {
			changes++
		}
		end = lr.offset
	}
}

// torn reports whether tail can be the beginning of one record whose writing
// was interrupted: it has no end, or blocks that were never written.
func torn(tail []byte) bool {
	i := bytes.Index(tail, []byte("\n\n"))
	return i < 0 || i == len(tail)-2 && bytes.IndexByte(tail, 0) >= 0
}

// writeAll replaces the journal by the tree's entries, atomically.
func writeAll(t *tree, path string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	buf := []byte("# Entries and changes of an embedded directory. Appended to; do not edit while it is in use.\nversion: 1\n\n")
	for _, n := range t.sorted() {
		buf = appendEntry(buf, n.obj)
		if len(buf) > 1<<20 {
			if _, err := f.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	if _, err := f.Write(buf); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sorted returns all nodes, parents before children.
func (t *tree) sorted() []*node {
	list := t.collect(nil, 2, nil)
	depth := func(n *node) (d int) {
		for ; n != nil; n = n.parent {
			d++
		}
		return d
	}
	slices.SortFunc(list, func(a, b *node) int {
		if d := depth(a) - depth(b); d != 0 {
			return d
		}
		return bySeq(a, b)
	})
	return list
}

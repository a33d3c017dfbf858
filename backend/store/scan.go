package store

import (
	"encoding/binary"
)

// RowScan walks the rows of one mailbox by UID. Seek comes first.
type RowScan struct {
	n       *Snapshot
	mailbox uint64
	row     Row
	uid     uint32
	ok      bool
	err     error
}

// Rows begins a walk. It uses the snapshot: nothing else may be read from it
// between two steps of the walk.
func (n *Snapshot) Rows(mailbox uint64) RowScan { return RowScan{n: n, mailbox: mailbox} }

// Seek goes to the first row with at least this UID.
func (w *RowScan) Seek(uid uint32) bool {
	w.n.key = keyRow(w.n.key, w.mailbox, uid)
	return w.land(w.n.it.SeekGE(w.n.key))
}

// SeekBefore goes to the last row below this UID.
func (w *RowScan) SeekBefore(uid uint32) bool {
	w.n.key = keyRow(w.n.key, w.mailbox, uid)
	return w.land(w.n.it.SeekLT(w.n.key))
}

// Next goes to the next row.
func (w *RowScan) Next() bool { return w.land(w.n.it.Next()) }

// Prev goes to the row before.
func (w *RowScan) Prev() bool { return w.land(w.n.it.Prev()) }

func (w *RowScan) land(ok bool) bool {
	w.ok = false
	if !ok {
		w.err = w.n.done()
		return false
	}
	k := w.n.it.Key()
	if len(k) != 13 || k[0] != kindRow || binary.BigEndian.Uint64(k[1:]) != w.mailbox {
		return false
	}
	w.uid, w.ok = binary.BigEndian.Uint32(k[9:]), true
	return true
}

// UID is the UID of the row.
func (w *RowScan) UID() uint32 { return w.uid }

// Row decodes the row. It is valid until the next step; nil on an error.
func (w *RowScan) Row() *Row {
	v, err := w.n.value()
	if err == nil {
		err = w.row.decode(w.uid, v)
	}
	if err != nil {
		w.err = err
		return nil
	}
	return &w.row
}

// Err is the error that ended the walk, nil when there were no more rows.
func (w *RowScan) Err() error { return w.err }

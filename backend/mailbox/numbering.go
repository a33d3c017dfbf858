package mailbox

import "sort"

// numbering is the UIDs of a view by sequence number: runs of consecutive
// UIDs, so that a mailbox of any size costs a few octets until messages in the
// middle are removed, and 8 for each run then. A thousand idle sessions keep
// little more than their runs.
type numbering struct {
	runs []run
	n    int
}

// run is consecutive UIDs from first on, up to the next run's seq.
type run struct {
	first uint32
	seq   uint32 // messages before the run
}

func (l *numbering) len() int { return l.n }

// add puts uid, above all others, at the end.
func (l *numbering) add(uid uint32) {
	if k := len(l.runs); k == 0 || l.runs[k-1].first+(uint32(l.n)-l.runs[k-1].seq) != uid {
		l.runs = append(l.runs, run{uid, uint32(l.n)})
	}
	l.n++
}

// uid is the UID with sequence number seq, from 1 on.
func (l *numbering) uid(seq int) uint32 {
	i := sort.Search(len(l.runs), func(i int) bool { return int(l.runs[i].seq) >= seq }) - 1
	return l.runs[i].first + uint32(seq-1) - l.runs[i].seq
}

// end is the UID behind the run.
func (l *numbering) end(i int) uint32 {
	if i+1 < len(l.runs) {
		return l.runs[i].first + l.runs[i+1].seq - l.runs[i].seq
	}
	return l.runs[i].first + uint32(l.n) - l.runs[i].seq
}

// seq is the sequence number of uid; when it has none, ok is false and seq is
// the number of the next one above it.
func (l *numbering) seq(uid uint32) (seq int, ok bool) {
	i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].first > uid }) - 1
	if i < 0 {
		return 1, false
	}
	if end := l.end(i); uid >= end {
		return int(l.runs[i].seq+end-l.runs[i].first) + 1, false
	}
	return int(l.runs[i].seq+uid-l.runs[i].first) + 1, true
}

// each calls f with the UIDs from first to last that have a number, in order.
func (l *numbering) each(first, last uint32, f func(uid uint32)) {
	if first > last {
		return
	}
	seq, _ := l.seq(first)
	for ; seq <= l.n; seq++ {
		uid := l.uid(seq)
		if uid > last {
			return
		}
		f(uid)
	}
}

// remove takes out uids, ascending, all of which have a number.
func (l *numbering) remove(uids []uint32) {
	var left numbering
	left.runs = make([]run, 0, len(l.runs)+1)
	for i := range l.runs {
		first, end := l.runs[i].first, l.end(i)
		for len(uids) > 0 && uids[0] < end {
			left.addRun(first, uids[0])
			first, uids = uids[0]+1, uids[1:]
		}
		left.addRun(first, end)
	}
	*l = left
}

// addRun adds the UIDs from first to below end.
func (l *numbering) addRun(first, end uint32) {
	if first < end {
		l.add(first)
		l.n += int(end - first - 1)
	}
}

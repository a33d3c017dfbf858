/*
Package mailboxtest gives tests a real mail store of one node: the real state
machine and rows, and a log that is a plain file instead of a raft group. What
it does not show is replication; everything above the log is the real thing.
*/
package mailboxtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
)

// Log is a mailbox.Log and store.Bodies on one file. It commits at once and is
// not synced to disk.
type Log struct {
	mu      sync.Mutex // guards what follows, and the order of Apply
	file    *os.File
	offsets []int64 // of entry i+1
	end     int64
	fsm     *fsm.FSM
	away    error // answered by Confirm and Propose while not nil
	after   error // becomes away when an entry is applied
	during  error // becomes away when an entry is read
	broken  error // answered by ReadEntry while not nil
}

// Propose appends data and applies it.
func (l *Log) Propose(ctx context.Context, data []byte) (any, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return nil, 0, l.away
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if _, err := l.file.WriteAt(data, l.end); err != nil {
		return nil, 0, err
	}
	l.offsets = append(l.offsets, l.end)
	l.end += int64(len(data))
	index := uint64(len(l.offsets))
	if l.after != nil {
		l.away, l.after = l.after, nil
	}
	return l.fsm.Apply([]fsm.Entry{{Index: index, Term: 1, Data: data}})[0], index, nil
}

// Confirm answers what SetAway said.
func (l *Log) Confirm(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.away
}

// SetAway makes the replica stop serving with err, or serve again with nil.
func (l *Log) SetAway(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = err
}

// SetAfter makes the replica stop serving with err after the next entry.
func (l *Log) SetAfter(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.after = err
}

// SetDuring makes the replica stop serving with err when an entry is read.
func (l *Log) SetDuring(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.during = err
}

// SetBroken makes entries unreadable with err, or readable again with nil.
func (l *Log) SetBroken(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = err
}

// ReadEntry returns the data of an entry.
func (l *Log) ReadEntry(index uint64, buf []byte) ([]byte, error) {
	l.mu.Lock()
	if l.broken != nil {
		defer l.mu.Unlock()
		return nil, l.broken
	}
	if l.during != nil {
		l.away, l.during = l.during, nil
	}
	if index == 0 || index > uint64(len(l.offsets)) {
		l.mu.Unlock()
		return nil, fmt.Errorf("no entry %d", index)
	}
	from, to := l.offsets[index-1], l.end
	if index < uint64(len(l.offsets)) {
		to = l.offsets[index]
	}
	l.mu.Unlock()
	n := int(to - from)
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	_, err := l.file.ReadAt(buf[:n], from)
	return buf[:n], err
}

// New returns a service on a store in a temporary directory, closed when the
// test ends.
func New(t testing.TB) *mailbox.Service {
	s, _ := NewWithLog(t)
	return s
}

// NewWithLog is New, and gives the log to those that want to take it away, and
// the configuration to those that want to change it.
func NewWithLog(t testing.TB, change ...func(*mailbox.Config)) (*mailbox.Service, *Log) {
	t.Helper()
	dir := t.TempDir()
	file, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	log := &Log{file: file}
	rows, err := store.Open(filepath.Join(dir, "meta"), log, store.Options{OnDiskFailure: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	var hub notify.Hub
	log.fsm, err = fsm.New(fsm.Config{Store: rows, Hub: &hub, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log.fsm.Close()
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
		file.Close()
	})
	cfg := mailbox.Config{Log: log, Store: rows, Hub: &hub}
	for _, c := range change {
		c(&cfg)
	}
	s, err := mailbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, log
}

package replicatest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/fsx"
)

// List is a state machine that keeps the entries in order.
type List struct {
	path string

	mu      sync.Mutex
	keep    bool
	items   []string
	applied uint64
	stall   sync.Mutex // held: Apply waits
}

// NewList continues from the file path, which may not be there. Without keep it
// only counts.
func NewList(t testing.TB, path string, keep bool) *List {
	l := &List{path: path, keep: keep}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l
	}
	Must(t, err)
	var s struct {
		Items   []string
		Applied uint64
	}
	Must(t, json.Unmarshal(data, &s))
	l.items, l.applied = s.Items, s.Applied
	return l
}

// EmptyList keeps the items and takes nothing over from the file path.
func EmptyList(path string) *List { return &List{path: path, keep: true} }

// Stall makes Apply wait until the function that it returns is called.
func (l *List) Stall() (resume func()) {
	l.stall.Lock()
	return l.stall.Unlock
}

// Apply implements replica.StateMachine.
func (l *List) Apply(batch []replica.Entry) []any {
	l.stall.Lock()
	defer l.stall.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	results := make([]any, len(batch))
	for i, e := range batch {
		if e.Index <= l.applied {
			continue
		}
		l.applied = e.Index
		if l.keep {
			n := binary.BigEndian.Uint16(e.Data)
			l.items = append(l.items, string(e.Data[2:][:n]))
		}
		results[i] = len(l.items)
	}
	return results
}

// Applied implements replica.StateMachine.
func (l *List) Applied() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applied
}

// Flush implements replica.StateMachine.
func (l *List) Flush() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	data, err := json.Marshal(map[string]any{"Items": l.items, "Applied": l.applied})
	if err != nil {
		return 0, err
	}
	return l.applied, fsx.WriteFileAtomic(fsx.OS, l.path, data)
}

// Items returns what was applied, in order.
func (l *List) Items() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.items...)
}

// Item makes an entry of a size from a text.
func Item(text string, size int) []byte {
	b := make([]byte, max(size, 2+len(text)))
	binary.BigEndian.PutUint16(b, uint16(len(text)))
	copy(b[2:], text)
	return b
}

// Checkpoint writes the state as it is now into the file name in a new
// directory.
func (l *List) Checkpoint(dir, name string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	data, err := json.Marshal(map[string]any{"Items": l.items, "Applied": l.applied})
	if err != nil {
		return err
	}
	return fsx.WriteFileAtomic(fsx.OS, filepath.Join(dir, name), data)
}

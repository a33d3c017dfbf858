package maillog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	batchBytes = 64 << 10 // written at once when reached
	maxPending = 8 << 20  // octets in memory; more are dropped
	maxLine    = 64 << 10 // octets of one event
)

// journal is a ring of files of JSON lines. One goroutine writes.
type journal struct {
	cfg     Config
	dropped atomic.Int64
	wake    chan struct{}
	done    chan struct{}

	mu      sync.Mutex // guards pending, closed, and the order of files against readers
	pending []byte
	closed  bool

	file sync.Mutex // guards out, size and the sizes in cfg, and the names in the directory
	out  *os.File
	size int64
	err  error
}

func openJournal(cfg Config) (*journal, error) {
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("mail journal: %w", err)
	}
	j := &journal{cfg: cfg, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if err := j.openFile(); err != nil {
		return nil, err
	}
	go j.run()
	return j, nil
}

// name is the n-th file, 0 the one being written.
func (j *journal) name(n int) string {
	return filepath.Join(j.cfg.Dir, fmt.Sprintf("mail.%d.jsonl", n))
}

func (j *journal) openFile() error {
	f, err := os.OpenFile(j.name(0), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("mail journal: %w", err)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return fmt.Errorf("mail journal: %w", err)
	}
	j.out, j.size = f, end
	// A crash may have left half a line; the next event starts a new one.
	if end > 0 && !endsLine(j.name(0), end) {
		n, _ := f.Write([]byte{'\n'})
		j.size += int64(n)
	}
	return nil
}

func endsLine(name string, end int64) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var last [1]byte
	_, err = f.ReadAt(last[:], end-1)
	return err == nil && last[0] == '\n'
}

// add queues e for writing; it never blocks on the disk.
func (j *journal) add(e *Event) {
	j.mu.Lock()
	if j.closed || len(j.pending) > maxPending {
		j.mu.Unlock()
		j.dropped.Add(1)
		return
	}
	before := len(j.pending)
	j.pending = e.appendJSON(j.pending)
	if len(j.pending)-before > maxLine {
		j.pending = j.pending[:before]
		j.dropped.Add(1)
	}
	full := before < batchBytes && len(j.pending) >= batchBytes
	j.mu.Unlock()
	if full {
		select {
		case j.wake <- struct{}{}:
		default:
		}
	}
}

func (j *journal) run() {
	defer close(j.done)
	tick := time.NewTicker(j.cfg.Flush)
	defer tick.Stop()
	var spare []byte
	for {
		select {
		case <-tick.C:
		case <-j.wake:
		}
		j.mu.Lock()
		closed := j.closed
		j.mu.Unlock()
		spare = j.flush(spare)
		if closed {
			return
		}
	}
}

// flush writes what is pending and returns a buffer to use again.
func (j *journal) flush(spare []byte) []byte {
	j.file.Lock()
	defer j.file.Unlock()
	j.mu.Lock()
	batch := j.pending
	j.pending = spare[:0]
	j.mu.Unlock()
	if len(batch) == 0 {
		return batch
	}
	if j.out == nil {
		j.err = j.openFile()
	}
	if j.out != nil {
		n, err := j.out.Write(batch)
		j.size += int64(n)
		if err != nil {
			j.err = err
			j.dropped.Add(int64(bytes.Count(batch[n:], []byte{'\n'})))
		}
		if j.size >= j.cfg.FileBytes {
			j.rotate()
		}
	}
	if cap(batch) > 4*batchBytes {
		return nil
	}
	return batch
}

// rotate moves every file one up and drops the last.
func (j *journal) rotate() {
	j.out.Close()
	j.out = nil
	for n := j.cfg.Files - 1; n > 0; n-- {
		if err := os.Rename(j.name(n-1), j.name(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			j.err = err
		}
	}
	if err := j.openFile(); err != nil {
		j.err = err
	}
}

// setSizes removes what is too much.
func (j *journal) setSizes(fileBytes int64, files int) error {
	j.file.Lock()
	defer j.file.Unlock()
	var errs []error
	for n := files; n < j.cfg.Files; n++ {
		if err := os.Remove(j.name(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("mail journal: %w", err))
		}
	}
	j.cfg.FileBytes, j.cfg.Files = fileBytes, files
	return errors.Join(errs...)
}

func (j *journal) close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		<-j.done
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
	<-j.done
	j.flush(nil)
	j.file.Lock()
	defer j.file.Unlock()
	if j.out == nil {
		return j.err
	}
	return errors.Join(j.err, j.out.Close())
}

// each calls found for the events, oldest first, whose line holds one of the
// needles (in lower case). Lines that cannot be read are skipped.
func (j *journal) each(needles []string, found func(*Event)) error {
	files, tail, err := j.snapshot()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	match := matcher(needles)
	for _, f := range files {
		if err := eachLine(io.NewSectionReader(f, 0, f.size), match, found); err != nil {
			return err
		}
	}
	return eachLine(bytes.NewReader(tail), match, found)
}

// part is a file of the journal as far as it was written at one time.
type part struct {
	*os.File
	size int64
}

// snapshot opens the files, oldest first, and copies what is not written yet. Of
// the file being written that is what it holds now: the tail is appended to it soon.
func (j *journal) snapshot() (files []part, tail []byte, err error) {
	j.file.Lock()
	defer j.file.Unlock()
	for n := j.cfg.Files - 1; n >= 0; n-- {
		f, err := openPart(j.name(n))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, nil, fmt.Errorf("mail journal: %w", err)
		}
		files = append(files, f)
	}
	j.mu.Lock()
	tail = slices.Clone(j.pending)
	j.mu.Unlock()
	return files, tail, nil
}

func openPart(name string) (part, error) {
	f, err := os.Open(name)
	if err != nil {
		return part{}, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return part{}, err
	}
	return part{f, st.Size()}, nil
}

// matcher finds one of the needles in a line. Many needles are ids, which are
// looked up by the words of the line instead of one by one.
func matcher(needles []string) func(line []byte) bool {
	if len(needles) <= 4 {
		return func(line []byte) bool {
			line = bytes.ToLower(line)
			return slices.ContainsFunc(needles, func(n string) bool { return bytes.Contains(line, []byte(n)) })
		}
	}
	set := make(map[string]bool, len(needles))
	for _, n := range needles {
		set[n] = true
	}
	return func(line []byte) bool {
		for word := range strings.SplitSeq(strings.ToLower(string(line)), `"`) {
			if set[word] {
				return true
			}
		}
		return false
	}
}

func eachLine(r io.Reader, match func([]byte) bool, found func(*Event)) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 16<<10), 2*maxLine)
	for s.Scan() {
		if line := s.Bytes(); match(line) {
			var e Event
			if json.Unmarshal(line, &e) == nil {
				found(&e)
			}
		}
	}
	if err := s.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("mail journal: %w", err)
	}
	return nil
}

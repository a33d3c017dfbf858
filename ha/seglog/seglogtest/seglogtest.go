// Package seglogtest helps tests outside raft to have a log with entries in it.
package seglogtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/seglog"
)

// Append stores commands after the last entry, as of a time, and returns the
// index of the first of them.
func Append(l *seglog.Log, term uint64, at time.Time, commands ...[]byte) (uint64, error) {
	last, err := l.LastIndex()
	if err != nil {
		return 0, err
	}
	batch := make([]*raft.Log, len(commands))
	for i, data := range commands {
		batch[i] = &raft.Log{Index: last + 1 + uint64(i), Term: term, Type: raft.LogCommand, Data: data, AppendedAt: at}
	}
	return last + 1, l.StoreLogs(batch)
}

// Trim makes every entry but the newest ones one that raft does not ask for.
func Trim(l *seglog.Log, keep uint64) error {
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil || last <= keep {
		return err
	}
	l.SetFloor(last - keep)
	if last <= keep+first {
		return nil
	}
	return l.DeleteRange(first, last-keep-1)
}

// Flip changes a bit of the first of these octets that is found in the files of
// a log's directory.
func Flip(dir string, octets []byte) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		at := bytes.Index(data, octets)
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte{data[at] ^ 1}, int64(at))
		return err
	}
	return fmt.Errorf("seglogtest: %d octets are in no file below %s", len(octets), dir)
}

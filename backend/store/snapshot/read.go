package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/backend/store"
)

// Reader is the log in a snapshot, or that of a replica.
type Reader interface {
	store.Bodies
	// Command returns the term of an entry and the data that the state machine
	// was given, none for entries that are raft's own.
	Command(index uint64, buf []byte) (term uint64, data []byte, err error)
}

// Opener opens the log in a directory of a snapshot, without changing it, and
// says how to close it.
type Opener func(dir string) (Reader, func() error, error)

// Opened is a snapshot that is read.
type Opened struct {
	*Info
	Rows  *store.Store
	Log   Reader
	close []func() error
}

// Open opens the snapshot in a directory. It stays as it is.
func Open(dir string, open Opener) (*Opened, error) {
	info, err := Read(dir)
	if err != nil {
		return nil, err
	}
	log, closeLog, err := open(filepath.Join(dir, logName))
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w: %w", info.Name, ErrDamaged, err)
	}
	o := readOptions()
	rows, err := store.Open(filepath.Join(dir, metaName), log, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot %s: %w: %w", info.Name, ErrDamaged, err), closeLog())
	}
	return &Opened{Info: info, Rows: rows, Log: log, close: []func() error{rows.Close, closeLog}}, nil
}

// Open opens one of the replica's snapshots, which stays until Close.
func (k *Keeper) Open(name string, open Opener) (*Opened, error) {
	dir, err := k.Path(name)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, busy := k.users.LoadOrStore(name, struct{}{}); busy {
		return nil, fmt.Errorf("snapshot %s is being read", name)
	}
	o, err := Open(dir, open)
	if err != nil {
		k.users.Delete(name)
		return nil, err
	}
	o.close = append(o.close, func() error { k.users.Delete(name); return nil })
	return o, nil
}

// Close ends reading.
func (o *Opened) Close() error {
	var err error
	for _, f := range o.close {
		err = errors.Join(err, f())
	}
	return err
}

// Check is what Verify has read.
type Check struct {
	Files    int
	Messages int64
	Octets   int64
}

// Verify reads a snapshot whole: its files by name and size, the segments by
// their checksums, the rows against each other and against the digest that was
// noted, and every message against its hash. checkFile reads one segment.
func Verify(ctx context.Context, dir string, open Opener, checkFile func(name string) error) (Check, error) {
	var c Check
	info, err := Read(dir)
	if err != nil {
		return c, err
	}
	damaged := func(err error) error { return fmt.Errorf("snapshot %s: %w: %w", info.Name, ErrDamaged, err) }
	for _, f := range info.Files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if !filepath.IsLocal(filepath.FromSlash(f.Name)) {
			return c, damaged(fmt.Errorf("file name %q", f.Name))
		}
		have, err := os.Stat(name)
		if err != nil {
			return c, damaged(err)
		}
		if have.Size() != f.Size {
			return c, damaged(fmt.Errorf("%s has %d octets, not %d", f.Name, have.Size(), f.Size))
		}
		if strings.HasPrefix(f.Name, logName+"/") && strings.HasSuffix(f.Name, ".seg") {
			if err := checkFile(name); err != nil {
				return c, damaged(err)
			}
		}
		c.Files++
	}
	o, err := Open(dir, open)
	if err != nil {
		return c, err
	}
	defer o.Close()
	if err := verifyRows(ctx, o, &c); err != nil {
		return c, damaged(err)
	}
	return c, nil
}

func verifyRows(ctx context.Context, o *Opened, c *Check) error {
	sum, err := o.Rows.Verify()
	if err != nil {
		return err
	}
	if sum.String() != o.Digest {
		return fmt.Errorf("digest %v of the rows, %s was noted", sum, o.Digest)
	}
	n, err := o.Rows.Snapshot()
	if err != nil {
		return err
	}
	defer n.Close()
	var bad error
	err = n.Messages(0, func(m *store.Message) bool {
		c.Messages++
		c.Octets += m.Size
		if bad = store.CheckMessage(m, o.Log); bad == nil {
			bad = ctx.Err()
		}
		return bad == nil
	})
	return errors.Join(err, bad)
}

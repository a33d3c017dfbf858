/*
Package storetest gives tests a file system for package store that loses what
was not synced, as a power cut does.
*/
package storetest

import (
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/backend/store"
)

// Disk is a file system in memory.
type Disk struct{ fs *vfs.MemFS }

// NewDisk returns an empty disk.
func NewDisk() *Disk { return &Disk{vfs.NewCrashableMem()} }

// FS is for store.Options.
func (d *Disk) FS() store.FS { return d.fs }

// Crash returns the disk as it may be found after a power cut now: with
// everything that was synced, and of the rest each piece with a probability of
// percent, chosen by seed. The old disk goes on.
func (d *Disk) Crash(percent int, seed uint64) *Disk {
	rng := rand.New(rand.NewPCG(seed, 0))
	return &Disk{d.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})}
}

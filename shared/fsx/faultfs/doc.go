/*
Package faultfs is a file system in memory for tests of durability. It knows
which writes and names were synced, and can lose the others.

	fs := faultfs.New(1)
	fs.CrashAfter(n)        // everything after the n-th operation fails
	run(fs)                 // the code under test
	disk := fs.Crash(seed)  // what a power cut could leave: reopen, check

An operation is anything that changes something or makes it durable: creating
or truncating by OpenFile, WriteAt, WriteVecAt, Sync, Allocate, Truncate,
Rename, Link, Remove, MkdirAll, SyncDir. Reading, opening an existing file and
closing are not counted.

Crash is stricter than most disks. Of each file, every unsynced write is kept
whole, dropped or torn at 512 or 4096 bytes, each piece by itself; unsynced
size changes may be lost. Of the names, created files can be missing, renames
undone and removed files back, unless their directory was synced. The same seed
gives the same state. A Sync that was told to fail loses its data for good, as
Linux does: the next Sync reports success and writes nothing of it.
*/
package faultfs

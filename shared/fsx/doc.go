/*
Package fsx names the few file operations that our promises rest on, so that
a test can put a disk that fails in their place.

A write is on the disk after File.Sync has returned nil, and not before. A
name (a created, renamed, linked or removed file) is on the disk after
FS.SyncDir of its directory has returned nil, and not before; a file that was
synced can still be gone after a crash when its name was not. Rename within a
directory is atomic: after a crash the name means the old file or the new one.
After a failed Sync nothing is known about the file, and calling Sync again
may report success without having written anything: the caller stops using it.

File.Allocate reserves space. Once it has returned nil, writes inside the
reserved size do not fail for want of space; "disk full" is seen there, as
ErrNoSpace, and nowhere else.

OS is the real thing. Package faultfs keeps files in memory, and loses, tears
and refuses what a real disk could. Package fsx does not retry and keeps no
state of its own.
*/
package fsx

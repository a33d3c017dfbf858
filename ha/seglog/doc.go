/*
Package seglog is an append-only log in segment files: hashicorp/raft's log
store, and at the same time the store of the message bodies, which are read
from it by index. It knows bytes, not mail.

# Files

	<base>-<salt>.seg  frames of consecutive entries from index base on
	c<base>-<gen>.seg  what compaction left of them, with the same indexes
	<id>.pre           reserved space for a segment to come
	first              logical first index, replaced atomically

A segment is a header of 64 bytes and frames. A frame is a header of 56 bytes
(frame.go has the layout) and the entry's data, padded to 8 bytes. Its CRCs are
seeded with the segment's salt, which is random, and chained to the frame
before, so that what an earlier use of the same blocks left behind is never
taken for a frame. A frame also names the offset where its batch begins: all
before that offset was flushed when the frame was written.

When a segment is full the next one takes over, and the old one is sealed in
the background: a table of offsets and a CRC of the whole file are put after
the frames, and the reserved rest is given back. A segment file gets its space
and its durable name ahead of need; its header goes out with its first batch.

Segments carry sequence numbers. A segment with base b supersedes every frame
of index b or higher in segments before it. That is how a suffix is discarded:
a new segment whose header says so is flushed, and nothing is overwritten.

# Promises

StoreLogs returns nil after all entries of the batch are on the disk: one
write and one fdatasync. It never returns early. After a crash everything that
it returned nil for is there, followed at most by the beginning of the batch
that was being written; nothing that DeleteRange discarded comes back.

"No space" shows as ErrNoSpace when a segment is reserved, before anything is
written. Any other error of a write or a flush is final: the log refuses
everything from then on with ErrFailed and tells OnFailure, whose business it
is to end the process. What the disk holds is only known again after Open.

Open cuts a torn tail: a bad frame with nothing after it that was written when
the bad one had been flushed. A bad frame anywhere else held acknowledged data;
Open refuses with ErrCorrupt, and the replica must not vote. Every read checks
the CRC of the whole frame. What Open found is flushed before it returns: a
process that was killed may have written it and no more, and from Open on raft
takes it for durable. Files that a new segment supersedes are removed after its
header is durable.

DeleteRange of a prefix moves the logical first index, never above the floor,
and with Trim set to Keep leaves the frames where they are: they are mail, and
ReadEntry still finds them. With Recycle whole segments below the first index
are used again.

Compact replaces a segment below the first index and the floor by one with the
frames that are wanted, octet for octet as they were written. The new file is
complete and durable before it has its name, and the old one goes after that.
Whoever reads is not disturbed, and Hold keeps files from being replaced.

Repair puts what the other replica has in the place of a frame that cannot be
read, in a file as Open does with Config.Fetch: only octets that the CRCs around
the damage say were there.

Memory: the cache of recent entries is bounded in bytes; offsets of sealed
segments are loaded on demand and a bounded number of them is kept.

# Left to others

Package seglog does not know what is committed or applied: package replica
sets the floor. Which frames are wanted, when to compact and how fast, when to
read everything and how to reach the other replica are others' business.
*/
package seglog

/*
Package store is the message store of one replica: rows in pebble, and the
octets of messages by their address in the log.

	fsm  -> Batch -> Commit    the only writer
	mailbox -> Snapshot        any number of readers, each of one moment
	        -> Body            octets of a message, through Bodies

The octets of a message are written once per replica, by the log. A row says
where they are: (index of the entry, offset, length), the same on both
replicas. Bodies reads an entry and checks its checksum.

What the package keeps true:

  - A Batch becomes visible whole or not at all, to readers and after a crash,
    and the index of the last entry in it becomes visible with it. Nothing is
    written ahead: after a crash the store is as it was after some entry, and
    the log replays those that follow.
  - Flush returns once everything committed before the call is on disk.
  - The digest of the state is a function of the rows alone, kept up to date
    row by row, and Verify computes it again from the rows.

DESIGN.md has the layout of the keys and the reasons.

Package store does not know what a command means, it checks no name, quota or
flag, and it never writes a body.
*/
package store

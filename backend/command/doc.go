/*
Package command is the format of the entries of a pair's replicated log: what
a replica is told to do, as bytes.

An entry is

	version  1 byte   Version
	op       1 byte   Op
	time     varint   Unix nanoseconds, of the replica that proposed it
	fields            by operation, integers as varints, strings with their length
	tail              octets of messages, at the very end

Everything that two replicas must agree on comes from the entry or from its
index in the log: the state machine has no clock and no random source of its
own. The octets of a message lie in the entry's tail and are never written a
second time, so their address, an Extent, is the same on every replica. A
message that does not fit one entry is carried by Part entries before the one
that uses it.

A pair is on a level, which says what its replicas may be asked to apply. It is
raised by a Format entry, when every member runs a release that knows the level;
until then nothing is written that the release before cannot read. Level 2 brings
version 3 of Deliver, which names the domain of many recipients once, and can claim
an answer, Remove, which takes an account away, Move and Import, by which an
account goes to another pair, and Rights, by which a mailbox has a list of rights.
Version 4 of Deliver says who posts, and that of Import carries such a list; both
are written only where there is something to say.

Decode is total: it never panics, allocates in proportion to its input, and
accepts only what Append can write. A version or an operation that it does not
know is ErrUnknown, which must stop the replica: skipping an entry would make
it differ from its peer for ever. Every other error is ErrCorrupt.

A decoded command refers to the octets of the entry, which must not change.

Package command does not know what a command does: that is package fsm.
*/
package command

/*
Package reprocess is the channel back to the door: what could not be decided
while the client waited is decided here and queued as a new message.

	list       -> posting rules that need the message -> refused
	           -> the list's copy, under a root queue id of its own
	           -> members, a piece at a time
	forwarded  -> the same message with another reverse-path
	refused    -> tried again, or bounced

The new message's id is made from the delivery key of the recipient that it
comes of, its octets are always the same, and what continues a list is queued
together with the piece before. Doing it again after a crash adds nothing: the
new message waits in the queue until the recipient that it comes of has ended
there for good (queue.Parent), so the queue knows its id; the pairs know the
delivery keys, and this process knows the ids of late, by whatever message they
came.

Package reprocess expands nothing itself and delivers nothing.
*/
package reprocess

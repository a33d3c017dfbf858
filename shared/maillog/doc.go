/*
Package maillog writes what happens to mail: one function per event, the same
keys in the same order everywhere, so that one search by queue id, trace id or
address tells the whole life of a message on this node.

An event goes to two places: to log/slog for the operator, and to a journal of
JSON lines that Trace searches. The journal is a ring of files of a fixed total
size. Events are handed to it in memory and written in batches by one
goroutine: a mail event never waits for a disk. A crash loses at most the last
batch; the queue and the store, not the journal, hold the truth about mail.

When the disk cannot keep up, memory is bounded too: the oldest unwritten
events are dropped and counted.

Package maillog decides nothing and never looks into a message.
*/
package maillog

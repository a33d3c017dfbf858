/*
Package raftnet carries a raft group's calls over mutually authenticated TLS:
raft's own RPCs, the question after a member's status, and the watch that
notices a process that died.

A Port is one listener for all groups of a process. A connection begins with a
preamble: what it is for, the pair, the sender's id and the id that the sender
expects to find. A connection whose certificate Authorize refuses, whose pair
is not here, whose sender is no member or that looks for an id other than ours
is closed before anything else is read: a replica that was replaced at its
address is not talked to by mistake, and no stranger reaches raft. A few dozen
connections may be at that stage at a time; the rest waits in the system's
queue.

Then come messages: a length, a kind and a body, little endian. On a
connection for raft or status each request is answered in order.

Entries travel as they are stored: a request is read into one buffer and its
entries are slices of that, which raft and the log then keep.

A stream is a connection on which two members say what they like, such as the
files of a replica that is seeded again; two at a time from others. A connection
for questions asks a data replica for single entries of its log, which repair
damage, and for its digest; their number, size and rate are bounded. A passive
member has no raft yet: it answers status questions and opens streams.

The answers to status questions are made by the caller. Package raftnet
decides nothing: it does not elect, and does not say who serves.
*/
package raftnet

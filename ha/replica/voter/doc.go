/*
Package voter is what a data replica and a witness have in common: one member
of one raft group, with its directory, its log, its peers and the watch over
the leader's process. It knows no clients and no state; packages replica and
witness say what this member does with the group.

# Directory

	id              the pair and this member's id; written when the directory is made
	lock            held while a process uses the directory
	raft/stable     term and vote
	raft/snapshots  manifests
	log/            the segment log

A member's id is random and lives in its directory. A directory made for
another id is refused, and a new one is made only when the configuration says
that the group is being created. A directory with an id and without a log is
refused too (ErrNoLog): a member that lost its log cannot come back under its
old id and vote as if it remembered (rule W6).

# The floor

F is the smallest applied index of the configured data replicas. The leader
commits it as an entry of its own kind, at most every few seconds and only if
something else was committed since the last one, so that an idle group does
not write. Every member keeps the log from F on, F itself included (rule W2).

# What replicas ask each other

A data replica gives another one of the configuration, never a witness, single
entries of its log and the digest that it noted last. It checks what it gets:
package seglog puts an entry in place only where that is what was there. A log
that cannot be opened for damage in the middle is mended so before raft begins.

# Failures

A failed write or flush of the log or of the stable file goes to OnFatal, once:
the process has to end, because raft would go on using the store.
*/
package voter

/*
Package pair brings the member of a group into being whose directory is empty:
one that is new, and one that has lost its directory or fell too far behind and
is made anew under another id.

	Join     makes the directory, with a new id and the marker "seeding"
	Puller   fetches its content from a data replica, and takes the marker away
	Source   gives it, on any data replica, serving or not

# Files

	seeding   what is being fetched and how far it is; removed last of all
	seed/     on the side of the giver, a frozen copy for one member

Everything that is fetched lies in its final place from the start. While the
marker is there nobody opens the directory (voter.ErrSeeding), so that a half of
a replica never votes or serves. The marker is made before anything else and
removed after everything else is durable: a crash at any moment leaves a
directory that is fetched further, or one that is complete.

# What is given

A data replica gets a checkpoint of the state and the files of the log, frozen
by hard links before the first octet is sent, so that writing, compaction and
expunging go on beside it. The log is frozen after the state and holds all that
is in it. The newest note of raft, which is older than the state, tells the new
raft where it begins; all later entries come from the leader by way of raft. A
witness gets a note below the floor and the one entry that it ends at.

Files are sent in order, in pieces with a checksum each; the rate is bounded.
The receiver notes how far it is durable every few megabytes, and goes on from
there after any interruption, also when both ends have restarted, as long as the
giver keeps the frozen copy, for an hour after it was last asked. Otherwise, or
from another giver, it begins again, and keeps the segments of the log that are
complete and the same. At the end every segment's checksums and the state's own
digest are checked; what does not agree is thrown away and fetched again.

# Who may ask

Only a member of the group's committed configuration gets anything: it was added
there by an operator, as one without a vote, before. Its name stands in that
configuration and must be that of its certificate. From that moment on the floor
waits for it: it answers with the index of the checkpoint that it is given.

Package pair adds and removes nobody: package replica does. A data replica that
has to be seeded again, since the log of the others begins behind its end, can
ask for it itself (Renew): its directory is put aside and made anew under another
id, and it asks the replica that serves, in its old name, to take the new one in
its place. Interrupted after it was taken out and before the new one was taken in,
it waits for an operator, as a member that was removed.
*/
package pair

/*
Package replica is a data replica of a pair: one raft group's log feeding one
state machine. It replicates bytes and knows no mail.

# Proposals

Propose returns nil after the entry is on the disk of a majority and the state
machine here has applied it. Entries are applied in order, each once: after a
restart raft replays from the last snapshot, and the state machine ignores what
it has applied already. When the outcome cannot be known the error is
ErrUnknown: the entry may be applied now, later or never, and the caller asks
again with a key that makes the repetition harmless. With every other error
the entry was not and will not be applied.

At most MaxInFlight bytes are under way; beyond that Propose answers ErrBusy
at once.

# Serving

The replica that clients use is the one that is serving: it leads, has applied
all that was committed before its term, and has not begun to hand over. Reads
are answered while Confirm returns nil; a caller asks once more when the answer
is ready, and only then sends it.

A read lease begins when this replica asks the other members whom they follow.
An answer counts if it names this replica and this term; that member gives its
vote to nobody else until its own heartbeat time-out, so the lease lasts for
Timings.Read from the question, or less if the member had not heard from us
for some time. raft's VerifyLeader is not used: a heartbeat answered before
the question, and delivered after a pause of this process, satisfies it.

# Failover

A follower watches the serving process. When the connection breaks, a new one
is refused, and another member sees the same, the follower stands for election
without waiting for the time-out. That message also overrules the other
members' loyalty to the old leader, whose read lease may still run if the
refusal came from something in between: a replica elected in this way serves
only after the read lease has passed. A host that is gone and a link that is
cut are noticed by the heartbeat time-out.

Transfer asks the target first whether it is alive and has caught up; raft
would otherwise refuse proposals for long while it waits for a dead one. If it
goes on refusing them for two election time-outs all the same, the process ends.

A replica that drains goes on voting, and hands over at once whenever it comes to
serve, to one that does not drain. While there is none that can take over, it
serves: draining never costs the service. Nothing is handed over to a replica
that drains, except by one that ends or is barred and finds no other.

A replica whose disk has no room for the next segment of the log takes only small
proposals, so that mail can still be deleted; the rest is ErrNoSpace. It hands
over like one that drains, and is not chosen while another one has room.

# Snapshots

A snapshot is the state machine's Flush and a note of its index (package
manifest). The log is never cut by it above the floor F (package voter), and
on a data replica the frames stay as mail. Pulling a new state from the other
data replica is package pair's: a replica that needs it marks its directory and
ends with ErrReseed, and does not start again.

# Members

The group's configuration is what raft has committed; the one in a file is
where it began. A new member has no vote until the serving replica sees that it
has caught up. A member is taken out only if those that are left and work are a
majority with a complete copy. While it serves, a replica raises alarms: members
that are away, copies too few, a log at half of its room; at nine tenths of that
room it holds writes back with ErrNoSpace.

Before it hands over, a replica that serves takes no more proposals and waits a
little for those under way: they are answered, which raft would not do.

A serving replica whose disk is slow hands over to one whose disk is measurably
faster. The group does so once a minute at most. When a write to its log does not
return at all (Timings.Hung), raft stands still in it and can neither hand over nor
step down, while its heartbeats keep the others from electing: then the process
ends, if another data replica could serve.

# Endings

A failed write or flush, one that never returns while this replica leads, and a
failed Flush of the state machine, call OnFatal.
The process must end then; raft alone would go on using the store.
*/
package replica

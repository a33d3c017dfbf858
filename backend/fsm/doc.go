/*
Package fsm applies the entries of a pair's log to the store. It is the only
writer of the store.

	Apply(entries) -> decode -> account and mailbox state in memory
	                         -> one batch of rows, with the applied index
	                         -> commit, not forced to disk -> wake the sessions

What it keeps true:

  - It is deterministic. The state after an entry depends on the entries up to
    it and on nothing else: no clock, no random source, no network, and not on
    how the log cut the entries into batches. Two replicas with the same
    applied index have the same digest.
  - It is total. Every well-formed entry has an effect or an answer that says
    why it has none. An entry that cannot be read, or a store that cannot be
    read or written, ends the replica through Config.Fatal; nothing is skipped.
  - The applied index is committed with the effect, so that after a crash the
    log replays exactly what the store has lost. Entries at or below the
    applied index are ignored.
  - A delivery key that was seen with the same body gets the answer it got then
    and changes nothing; with another body it is refused, and reported.
  - Whether a message is answered is decided by the entry that delivers it, by
    the entry's time and the account's memory of who was answered, and kept with
    the delivery key. The answer stays due, to that key and to others, until the
    entry by which a relay claims it, under the answer's own key; nobody else
    gets it in the period: one answer per sender and period, over all relays, and
    over a change of the serving replica.
  - UIDs and MODSEQs only grow, also over deletion and renaming. A UIDVALIDITY
    is used once in an account.
  - Usage is charged with the entry that adds the message, so that parallel
    writers cannot pass the quota together.

Package fsm does not check names, decode messages or wait for the disk; what
is proposed has been checked by package mailbox.
*/
package fsm

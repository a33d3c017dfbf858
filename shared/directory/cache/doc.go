/*
Package cache remembers what a directory answered, so that a relay asks once
and not once a message.

	question -> table: fresh? yes -> answer (one read lock of a shard)
	                          no  -> flight: one question at a time for one key -> Directory

What it keeps true:

  - An answer is used for Config.TTL. Then it is asked for again; while the
    directory cannot say, the old answer is used until it is Config.Stale old,
    and after that the failure is passed on. During such a failure the same
    question is not sent again for a moment, so that a server that hangs does
    not slow every recipient.
  - "Nobody" is remembered only when it was a clean answer, and for addresses
    only when Config.Negative says so: a user who is added can receive mail at
    once. It is never used once it is old.
  - A password check is remembered only when it succeeded, under a keyed hash
    of entry, change stamp and password with a key of this process, and no
    longer than the entry may be.
  - A search that finds up to Config.Selected entries is remembered; a longer
    answer passes through, and only that it is long is remembered.
  - What is flushed while a question about it is under way is not remembered.
  - Entries are remembered packed, as their attributes, where the schema that
    reads them is known (Config.Schema): some 500 octets for an answer with all
    that belongs to it, three quarters of them outside of the heap, which would
    grow by a multiple. A hit reads the entry again, some microseconds.
  - Memory is bounded by the number of answers and by their size. What was not
    used for longest goes first, nearly (CLOCK).

Save and Load carry domains, addresses and entries over a restart, so that a
relay that starts while the directory is away knows whom it knew before; they
grow no younger by it. Passwords, logins and answers of "nobody" are not kept on
disk.

Names and addresses are compared without ASCII case, as the directory does.
*/
package cache

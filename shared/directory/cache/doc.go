/*
Package cache remembers what a directory answered, so that a relay asks once
and not once a message.

What it keeps true:

  - An answer is used for Config.TTL. After that it is asked for again; while
    the directory cannot be reached, the old answer is used until Config.Stale
    is over, and then the failure is passed on. Nothing stale is ever used
    beside a server that answers.
  - "Nobody" is remembered only when it was a clean answer, and for addresses
    only when Config.Negative says so: a user who is added can receive mail at
    once.
  - One question at a time: callers that ask the same wait for the same answer.
  - A password check is remembered only when it succeeded, under a keyed hash
    of login and password with a key of this process, and never longer than the
    entry it belongs to.
  - Memory is bounded by the number of answers. Which one goes when it is full
    is chosen at random.

Searches and reads of single entries, which lists make, are not remembered.
*/
package cache

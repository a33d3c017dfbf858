/*
Package queue keeps every accepted message on disk until all its deliveries
are finished.

	Submit -> ID.msg, ID.env -> Load, Body -> Update ... -> Remove

A message is two files named after its queue id, in the subdirectory named
after the id's first character: ID.msg, written once, and ID.env, replaced as
deliveries finish. ID.env is renamed into place last, so its presence is what
makes the message ours.

What it keeps true:

  - Once Submit returns nil, the message survives a crash of this host and the
    sender may be told 250. Before that, a crash leaves at most an ID.msg
    without ID.env, which Open removes.
  - ID.env is whole or it is the one before: every change is written beside it,
    synced and renamed. It ends in a checksum and names length and checksum of
    ID.msg, so a damaged message is found before it is sent; it is set aside as
    ID.bad and never deleted.
  - Remove takes away ID.env, makes that durable and only then takes ID.msg. A
    crash can undo a removal whole unless Remove was asked to be durable, so a
    delivery can be repeated after a crash, under the same delivery key; it is
    never forgotten, and an ID.env without its ID.msg is always damage.
  - A failed sync of any file or directory ends the queue: nothing is known
    about the disk any more, every later change is refused with ErrFailed and
    Config.Fatal is called.

An address outside gets one copy of a message, however many messages of its root
lead there: see given. Mail whose octets a list has changed has a root of its
own, and a foreign LMTP server is asked each time.

Room is reserved before work that may need it (Reserve), so that a transaction
that has told a pair can still queue the rest. ErrFull says that there is none.

The format of ID.env carries a version and the lowest version that may read
it; see format.go. The queue as a whole is on a level, which says what may be
written: each release writes what the one before reads, until Raise. Then that
one no longer opens the queue.

Package queue does not decide when or where to deliver: that is package
jobctl. It never opens a network connection and never looks into ID.msg. Only
package transaction calls Submit. Calls for one id are not made at the same
time; calls for different ids may be.
*/
package queue

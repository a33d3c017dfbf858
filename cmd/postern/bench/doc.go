/*
Package bench puts a known load on a running cluster from outside and measures
what its users would notice.

	Profile: sessions that poll, messages a second
	   -> senders by SMTP, sessions by IMAP, through every relay in turn
	   -> Result: counts, times in percentiles, what the processes used

Times count from when something was due, not from when a busy sender got round
to it: a cluster that stalls for a second shows that second in every message that
was due in it. A load that is asked for as fast as it is answered (no rate) has
no such moment and counts from the start of each message.

What it keeps true:

  - No more than Profile allows is sent or stored; Check refuses what could fill
    a disk, or is beyond what one client can make.
  - It ends by itself: after Profile.For, when the context ends, and when more
    than MaxErrors of what was asked for failed. Load is never added to a cluster
    that fails.
  - Every message is one that it may send: to the users named, with a size that
    was given.

The mail stays in the mailboxes. Whether all of it arrived, once, is not its
question: that is `postern drill`.
*/
package bench

/*
Package expand turns one envelope recipient into final deliveries, by one look
at the directory.

	address -> domain ours?  no: channel tcp_local, the domain as next hop
	        -> entry         user: its delivery options, group: its members
	        -> mailbox: channel tcp_lmtpcs, the pair of its mailHost
	           forward: each address from the start again
	           members: each member from the start again

What it keeps true:

  - An error of the directory that is not a clean "nobody" is 451 4.4.3, never
    550; a list that cannot be read whole is refused for now, never half sent.
  - Nothing is lost on the way: a member or forwarding address that is refused
    while others are not goes to the channel reprocess by itself, to be tried
    again there or bounced from there. When none is left, the recipient is
    refused, so that no message is accepted for nobody.
  - It ends: at most MaxDepth steps from the address given, an address on the
    present path is not entered again, an entry is expanded once, and one
    recipient yields at most MaxFinal deliveries, four times that in pieces. What came through the channel
    reprocess keeps the path it had.
  - Each final delivery says in Via how it came about, outermost first. Via is
    empty for the address itself.
  - Explain and Rcpt are one piece of code: what a tool prints is what live mail
    gets.

The stages of an entry are those of the specification, in their order: object
class, status, uid, message capture, mail host and routing address, limits,
delivery options, dates, what the person opted into, deferral, a group's rules,
and the addresses that its options produce. Delivery options are written in the
language of the old servers (see Options); the values native, program and file
lead to channels that this release has not, so they are passed over and an alarm
is raised.

# Lists

A list of more than Config.ListLimit members, and one whose mail differs from
what was sent to it (fields, texts, errors-to), goes to the channel reprocess as
one recipient; so does a list in a list, when the limit is used up. Again is what
happens there:

	posting rules -> a copy with the list's changes, under a root id of its own
	                 (package list), which comes back once more
	              -> members, ChunkSize of them at a time, in the order of their
	                 names, and the list itself again to go on after the last

Each piece is queued together with the recipient that continues it, so nothing
needs to be remembered elsewhere: a crash either has both or neither. The whole
membership is read before each piece, so a cut-short answer of the directory is
a failure of the piece and sends nothing. The members are gone through as they
are read: the memory it takes is that of one piece, of one page of the
directory's answer, and of the names of those members that are not plain
mailboxes.

Posting rules are checked against whoever posted, also for a list inside
another one and for a copy whose envelope sender is the outer list's owner.

# What is left to others

Which of its results a sender may reach, an address of this relay that nobody
has (postmaster), and leaving out what two recipients of one message share, is
package transaction's; delivery keys are made there too. Filters are package
sieve's. A percent sign, an exclamation mark or an at sign in a local part means
nothing: such an address belongs to an entry or to nobody.
*/
package expand

/*
Package lmtp delivers to backend pairs, and to foreign LMTP servers, by LMTP
(RFC 2033).

	Deliver -> candidates of the pair -> idle or new connection -> one transaction
	        <- one result per recipient; "leader=NODE" or silence: the next one

Connections are kept and used again, by one transaction at a time. All commands
and, where the peer offers CHUNKING, the message travel in one write.

To a pair that offers X-TT, each recipient carries its delivery key. That is
what makes it safe to send again, at once and to another replica, a message
whose answer did not come: a pair that has the key answers as before and stores
nothing. An answer that does not come, or that leaves the question open, is an
unknown outcome and stays one until a later answer under the same key settles
it. So a node that has not answered when another one of its pair has come to
serve is given up: it may be frozen or cut off. A peer without X-TT is never asked twice in one attempt once the message
may have reached it.

Private parameters (values are xtext on the wire): on MAIL, XTRACE, the root
queue id, and XTIME, the arrival at the first relay in Unix nanoseconds; on
RCPT, XKEY, the delivery key in hexadecimal, XFOLDER, the folder in UTF-8, and
XQUOTA, "octets,messages,stamp" with -1 for no limit. XDFLG=2 goes with guaranteed mail: quotas do not count. XPART, the partition in
which the mailbox is to be made, goes to peers that list it behind X-TT 1. So does
XPOSTER, beside XFOLDER: the identities of who has logged in and sent the message,
by which the pair decides whether the folder takes it; "-" says that there are more
than fit.

The message of a large list is sent to a node once: the transactions that
follow name it (XBODY on MAIL), those of later pieces of the list, which are
messages of their own with the same root queue id, too. A node that does not
know it, having restarted perhaps, says so and gets it again.

A recipient with an Autoreply is sent with XVACATION, the question whether to
answer, to peers that list it behind X-TT 1; the answer comes back as
Result.Answer. Other peers get the message without the question, and nothing is
answered; a recipient whose mail is only to be answered is then not sent to them
at all, and counts as delivered. To peers that list XCLAIM too, the question says
that the answer will be claimed, which Claim does.

A pair may answer that a user has moved to another one ("not mine; pair=NAME
epoch=N"): what the relay knew of the directory was old. The recipient is then
given to that pair at once, one time, and Config.Moved is told. While a mailbox is
on its way ("mailbox moves") it is asked for again, as where nobody serves.

A recipient with a Welcome is sent with XWELCOME=1 to peers that list it; a reply
that ends in "welcome=N" says that the mailbox was made at that Unix time and has
had no welcome, which is Result.Created.

Package lmtp does not choose the pair and does not decide about retries beyond
the context it is given.
*/
package lmtp

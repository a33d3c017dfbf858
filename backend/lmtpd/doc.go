/*
Package lmtpd is the LMTP server of a backend (RFC 2033): one reply for each
recipient, after its mailbox has the message on a majority of the pair.

	LHLO    421 while draining, 451 "not serving; leader=NODE" at MAIL
	RCPT    collected; only the form of the address is checked
	DATA    one mailbox.Deliver; then in the order of RCPT:
	        250 2.1.5   committed, also when an earlier attempt did it
	        451 4.3.0   not serving; leader=NODE when it is known
	        451 4.4.5   no majority in time: the outcome is unknown, ask again
	        452 4.2.2   over quota; 552 5.2.2 when nothing is allowed at all
	        452 4.3.1   too much in flight, or no room on the disk
	        552 5.3.4   too big

Any RFC 2033 client may deliver. To clients that Config.PrivateFor accepts, the
relays, the server offers X-TT 1, with the names of the parameters that are
newer than its version 1, and reads on MAIL XTRACE (message id for the
log), XTIME (arrival, Unix nanoseconds) and XBODY, on RCPT XKEY (delivery key, 32
hexadecimal digits), XFOLDER (UTF-8), XQUOTA ("octets,messages,stamp", -1 for no
limit), XFLAGS (system flags, comma-separated), XDFLG (bit 2: deliver even
over quota) and XVACATION ("hash,seconds", and ",only" for mail that is not to be
stored): has the sender of this message had the answer with this hash within so
many seconds? The reply then ends in "vacation=reply" when the relay is to
answer, or in "vacation=none". With XCLAIM "later" the answer stays due, to this
key when it is repeated and to other messages, until it is claimed: by a recipient
with XVACATION ",only" and as XCLAIM the claimant's key, whose message is not
looked at; "vacation=reply" gives it the answer for the period, again when it asks
again, and nobody else. A repeated key never makes a second copy.
XPART names the partition in which to make the mailbox
(mailMessageStore of the directory). A pair has one partition, the log with its
rows, so the name is checked for its form and every mailbox is in that one.
XPOSTER, beside XFOLDER, names who posts, where the relay knows because somebody has
logged in: identities with a space between them, "anyone@domain" among them, and "-"
when there are more. The folder takes the mail if its list of rights grants p to
anyone or to one of them and takes it from none, or if they are its owner; otherwise
INBOX does, and the reply says so.
XWELCOME=1 asks whether the mailbox is new; the reply then says "welcome=N", the
Unix time at which it was made, before any word about an answer, for a day and
as long as the message with the key that package mail's WelcomeKey gives for it
has not been delivered.

XBODY lets the message of a large list travel and be stored once. "new" says that
more transactions with this message may follow; 64 hexadecimal digits are its
SHA-256 and say that it is the one that came with "new" under the same XTRACE
and sender a short while ago, and that no octets follow now (BDAT 0 LAST). MAIL
is answered 451 4.6.0 when this replica has no such message: it is to be sent.

Package lmtpd stores nothing itself, and it sends nothing back: a notification
is the relay's.
*/
package lmtpd

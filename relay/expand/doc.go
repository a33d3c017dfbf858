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
    recipient yields at most MaxFinal deliveries. What came through the channel
    reprocess keeps the path it had.
  - Each final delivery says in Via how it came about, outermost first. Via is
    empty for the address itself.

A list of more than Config.ListLimit members goes to the channel reprocess as
one recipient, unless the message comes from there. Which of its results a
sender may reach, an address of this relay that nobody has (postmaster), and
leaving out what two recipients of one message share, is package transaction's;
delivery keys are made there too. A percent sign, an exclamation mark or an at
sign in a local part means nothing: such an address belongs to an entry or to
nobody.

This release reads the options mailbox, forward, members, members_offline and
hold; others are ignored, and with none left the default applies, as in the
specification. Posting rules of lists are not evaluated yet: a group that has
any is refused for now rather than open to all.
*/
package expand

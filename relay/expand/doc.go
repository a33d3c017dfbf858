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
  - It ends: at most MaxDepth steps from the address given, an address on the
    present path is not entered again, and one recipient yields at most
    MaxFinal deliveries.
  - Each final delivery says in Via how it came about.

A list of more than Config.ListLimit members goes to the channel reprocess as
one recipient, unless the message comes from there. Which of its results a
sender may reach, and leaving out what stands there twice, is package
transaction's; delivery keys are made there too. This release reads the options
mailbox, forward, members and hold; others are ignored, and with none left the
default applies, as in the specification. Lists have no posting rules yet: a
group that sets any (mgrpAllowedBroadcaster and its kin) is refused for now.
*/
package expand

/*
Package drill breaks a running cluster on purpose, under load, and counts.

	Run -> set up: everything well, where each mailbox stands
	    -> load (package ledger), a user at work (package mailbox), watch (who serves)
	    -> steady, inject, the fault is real, hold, recover, settle
	    -> drain: load ends, queues empty
	    -> check: mailboxes against the ledger, gaps, digests
	    -> Result

A Scenario is data (name, what is expected, limits, what it needs of the target)
and one function. A Target is a cluster and what can be done to it: package netns
makes one in network namespaces, package site is an operator's own.

What it keeps true: a result is passed only when load was really sent, the fault
was seen to be there, and every check was made. What could not be done or
established is an error, never a pass. Whatever a drill did to a target is
undone before Run returns, also after an error and when the context ends.

It knows the cluster from outside: SMTP, IMAP, the admin API, signals and
packets.
*/
package drill

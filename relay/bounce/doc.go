/*
Package bounce tells senders what became of their mail: delivery status
notifications by RFC 3464, as asked for by the parameters of RFC 3461.

	Report -> text, delivery-status, message or header -> the door

A notification is made from the queue's envelope file and the message, dates
included, and its queue id is made from the message's id and the recipients'
states. Making it again after a crash gives the same octets under the same id and
the same delivery keys: the sender sees one. Only the sender's language is asked
of the directory; who changes it in between gets the one that came first.

It travels with a null reverse-path. Mail that has one itself, or is a
notification, never causes another (RFC 5321 6.1); what fails then is in the log
only. So is what exceeds the number of notifications that one address may get
in an hour.

What the sender learns of a recipient that was forwarded is the address that the
sender wrote, not where it led. Names of backends are never shown.

The author is the address that the recipients' domain names in the directory,
when it is the same for all of one notification.

The words are in the language that the sender prefers (preferredLanguage of the
user or else of the domain), if there are texts in it, and else in that of the
relay. They are files, one a language, that come with the program and that an
operator can replace or add to:

	# a comment
	[author]                 the name in From
	[greeting]               the first lines; {host} is this relay
	[failed]                 and returned, timedout, delayed, relayed, expanded,
	Subject: not delivered   delivered: subject, and text above the recipients

	It did not work.
	[said]                   one line; {server} has answered {reply}
	[until]                  delivery is tried until {until}
	[closing]                the last lines, {host}; may be missing

The report for programs does not depend on them. They go as quoted-printable or
base64 where they are not ASCII, so that no server on the way needs 8BITMIME for
them.

Package bounce does not decide who is to be told or when: package queue's Owed
and package jobctl do.
*/
package bounce

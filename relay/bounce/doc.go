/*
Package bounce tells senders what became of their mail: delivery status
notifications by RFC 3464, as asked for by the parameters of RFC 3461.

	Report -> text, delivery-status, message or header -> the door

A notification is made from the queue's envelope file and the message alone,
dates included, and its queue id is made from the message's id and the
recipients' states. Making it again after a crash gives the same octets under
the same id and the same delivery keys: the sender sees one.

It travels with a null reverse-path. Mail that has one itself, or is a
notification, never causes another (RFC 5321 6.1); what fails then is in the log
only. So is what exceeds the number of notifications that one address may get
in an hour.

What the sender learns of a recipient that was forwarded is the address that the
sender wrote, not where it led. Names of backends are never shown.

The author is the address that the recipients' domain names in the directory,
when it is the same for all of one notification.

Package bounce does not decide who is to be told or when: package queue's Owed
and package jobctl do.
*/
package bounce

/*
Package embedded is an LDAP version 3 server in the process (RFC 4511), for the
default installation and for tests. Relays reach it over LDAP like any other
server.

	net.Conn -> frame -> request -> tree (entries, indexes) -> response
	                                  `-> journal (LDIF, fsync)

The whole tree is in memory; equality on the attributes of Config.Indexes is
answered from an index. It is loaded from LDIF (RFC 2849). With a journal each
change is on disk before it is answered, and a journal that a crash cut short
loses at most the change that nobody was told of. A journal with a fault
anywhere else is refused with the line number.

It has no schema: attributes compare without case and with runs of spaces as
one (caseIgnoreMatch), names of entries by their parts
(distinguishedNameMatch), passwords by octets. There are no aliases, referrals
or SASL mechanisms. The root DN may do everything; other people may read,
except the attributes in Config.Protected, and those who did not log in may do
so only if Config.AnonymousRead says so.

Everything a stranger sends is bounded: the octets of a message, the depth and
size of a filter, the number of connections, the time between two requests. A
message that cannot be read ends the connection, never the process.

The BER reader is our own, of some sixty lines over one buffer: the general
decoder copies the octets of every level into its parent and allocates for
each element.
*/
package embedded

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

It tells browsers of a schema (cn=Subschema, of package directory/schema) and
does not enforce it: attributes compare without case and with runs of spaces as
one (caseIgnoreMatch), names of entries by their parts
(distinguishedNameMatch), passwords by octets. There are no aliases that are
followed and no referrals.

People bind with a password or by EXTERNAL: over a Unix socket as the user that
the kernel says they are, over TLS as the subject of their certificate. The root DN may do everything; what others may is in
Config.Rules, of which the first that fits decides. Without rules who has logged
in may read all but the attributes in Config.Protected and change the own
password, and others may read only if Config.AnonymousRead says so. A value that
may not be searched is, in filters, as though absent.

Besides the operations of RFC 4511 there are paged results (RFC 2696), password
modify (RFC 3062), who am I (RFC 4532), increment (RFC 4525), StartTLS, all
operational attributes by "+" (RFC 3673), and filters that are always true or
false (RFC 4526). The server keeps entryUUID, entryCSN, createTimestamp,
modifyTimestamp, creatorsName and modifiersName of each entry.

Everything a stranger sends is bounded: the octets of a message, the depth and
size of a filter, the number of connections, the time between two requests. A
message that cannot be read ends the connection, never the process.
*/
package embedded

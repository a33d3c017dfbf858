/*
Package directory is the vocabulary of users, groups and domains, and the
interface by which everything asks for them.

	relay/expand, relay/proxy -> Directory <- cache <- ldap == LDAP server
	                                                          (OpenLDAP, embedded ...)

A "not found" is only ever said after a complete and clean answer of a server.
Whatever else happens (no server, time-out, referral, a result cut short, a
missing search base) is an error that nobody classified, which is temporary:
mail waits, it does not bounce. Only ErrNotFound, ErrAmbiguous and
ErrBadPassword are answers.

An Entry and a Domain are never changed once they have been returned: caches
hand the same one to many callers.

A Domain says how it was found (an alias, a subdomain, a vanity domain), what
its users share, and who owns the addresses that nobody else does. Where its
mail belongs is for the caller: see Domain.LocalTo, CatchAll and SmartHost.

Schema names the attributes and object classes of a site and turns raw
attributes into an Entry or a Domain. Preset has the layouts that there are, and
Rename gives every purpose another attribute. A value that cannot be read never hides
the entry: it is left out and named in Faults.

Package directory does not decide what happens to a message; package
relay/expand does. It builds no filters and opens no connections: package
directory/ldap does.
*/
package directory

/*
Package ldap is a directory.Directory over LDAP servers.

	question -> Directory -> pool -> server 1 (healthy?) -> lines: searches, many at a time
	                       |      `> server 2 ...        -> one at a time: pages; with the library: binds, changes
	                       `> master, before anybody is said to be unknown

Servers are tried in the order given, or the fastest first, healthy ones only.
One that fails or does not answer in time is left alone until a probe in the
background has logged in again; when none is left a question fails at once with
directory.ErrUnavailable, so that an outage costs nobody a time-out each.

A domain is a node of the DC tree, an entry of the organization tree, or both
(directory.Layout). An address is one search once its domain is known: the whole
local part and the part before the subaddress, under all names of the domain, in
one filter; the owners of "@domain" come with the domain.

"Not found" is said only after a SearchResultDone with success, from below a
base that exists. A time-out, a broken connection, a referral, a size or time
limit, an answer that cannot be decoded, and a base that is missing are
temporary errors, each with its name (directory.FaultOf), a figure and, once a
minute, a line in the log. A search does not go through the library: it reports
a cancelled search, a search on a closing connection and a panic in the decoder
as a search that found nothing, and allocates for each element. See line.

A search by URL comes in pages, on a connection of its own, and no more than a
page is held. What fails after the first entry was told is not tried elsewhere:
it is directory.ErrIncomplete. When all connections for pages are in use,
perhaps by askers who wait for each other, whoever waits for Config.Timeout is
told directory.ErrUnavailable.

Filters and names are put together in escape.go only, where every value is
escaped, and a test reads the sources of the module to keep it so; names that
come from entries are parsed before use. Searches by URL are limited to the
configured servers and to what lies below the configured bases.

Package ldap keeps nothing: package directory/cache does.
*/
package ldap

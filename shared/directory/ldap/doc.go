/*
Package ldap is a directory.Directory over LDAP servers.

	question -> Directory -> pool -> server 1 (healthy?) -> multiplexed search connections
	                              `> server 2 ...        -> exclusive connections: binds, paged searches

Servers are tried in the order given, healthy ones only. One that fails or does
not answer in time is left alone until a probe in the background has logged in
again; when none is left a question fails at once with
directory.ErrUnavailable, so that an outage costs nobody a time-out each.

"Not found" is said only after a SearchResultDone with success, from below a
base that exists. A time-out, a broken connection, a referral, a size or time
limit, an answer that cannot be decoded, and a base that is missing are
temporary errors. The library's asynchronous search is not used because it
reports a cancelled search, a search on a closing connection and a panic in the
decoder as a search that found nothing.

All values that come from mail or from people go through EscapeFilter; names
that come from entries are parsed before use. Searches by URL are limited to the
configured servers and to what lies below the configured bases.

Package ldap keeps nothing: package directory/cache does.
*/
package ldap

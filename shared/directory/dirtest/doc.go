/*
Package dirtest is the contract of directory.Directory as tests, and the
servers to run it against: package embedded and OpenLDAP.

Whoever passes Run finds domains, addresses, logins, entries and members as
package directory promises, and never says "not found" when it does not know.
*/
package dirtest

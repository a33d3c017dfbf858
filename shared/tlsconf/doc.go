/*
Package tlsconf gives every node its certificates and says who the peer is.

The tiers speak TLS 1.3 with certificates on both sides, from one CA of the
cluster. A certificate states what its node may do as URI names of the form

	postern://CLUSTER/ROLE/NODE

one for each role; the roles are repeated as organizational units for people who
read certificates with other tools. A connection stands only when the peer's
chain ends in the cluster's CA now (also when the session is resumed), the
cluster is ours, and one of its roles is on the list of the listener or dialer.
Host names play no part: addresses change, names of nodes do not.

A Store reads certificate, key and CA from files and reads them again when they
change; a set that does not fit together is refused and the old one stays in
use. Connections that are open go on. Public is the same for the certificate
shown to the Internet, which carries no role.

Certificate and CAs are replaced while the node runs: Request makes a key that
never leaves the host, Install takes the certificate of it, SetTrust the CAs. Each
is written to the files first, so that a restart, also one in the middle, finds
what fits together. Sessions are not resumed across such a change.

CA makes and signs certificates for "postern pki" and for the development
cluster. The daemons never hold its key.
*/
package tlsconf

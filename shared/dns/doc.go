/*
Package dns answers the few questions that mail asks of the DNS: MX, addresses,
TXT and PTR.

Resolver is the interface, Client the real one: it asks configured servers by
UDP with EDNS0, by TCP when an answer is cut short, tries the next server when
one does not answer, and keeps answers for their TTL, "no such name" among them,
within bounds. Questions that are under way are asked once. Server is a small
authoritative server over a zone in memory, for development clusters and tests,
and Zone answers from the same data without a network. Package responder is the
server that faces the Internet.

An answer is one of three things: records, ErrNotFound (the name or the type
does not exist, from an authoritative or clean answer) or an error, which is
always temporary. SERVFAIL, time-outs and nonsense are errors and never
ErrNotFound: mail is not bounced because a name server is ill.

Names are compared without case and given without the final dot. Package dns
does not validate DNSSEC.
*/
package dns

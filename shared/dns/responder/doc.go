/*
Package responder answers as an authoritative name server for one zone: MX, A and
AAAA of the mail names, with the relays that are fit to take clients now.

	ZONE and each of Names    MX: the names of the fit relays; A, AAAA: their addresses
	RELAY.ZONE                A, AAAA of that relay, fit or not
	ZONE                      SOA, NS

A relay that drains, is dead or cannot do its job is left out, and clients follow
within the TTL. When no relay is fit, all that are known are named: a name without
records would have mail bounced, one that does not answer has it tried again. All
answers of a type are in another order each time.

It takes no update, gives no transfer and asks nobody: names outside the zone are
refused. Answers to UDP are cut at 1,232 octets with TC, and each network of
clients has a bounded rate of them; beyond it every second question gets TC alone,
so that a real client comes by TCP, and the others nothing. Connections, and
questions under way, are bounded over all clients and per network too. Nothing that
a client sends makes it panic or keep memory.

Package responder does not know who is fit: it is told by Relays at every answer.
*/
package responder

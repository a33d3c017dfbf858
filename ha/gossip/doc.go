/*
Package gossip tells every node who is up, in which role, with which version
and load, who drains, and for each pair which replica serves, with its term and
applied index. It is the one place that knows memberlist.

Everything it says is a hint. It never decides who owns data: a stale hint costs
a caller one redirect, and with gossip dead the last view stays in use.

# Who is believed

Every packet and stream is encrypted with the cluster's key, which keeps
strangers out. Inside, no node is believed for its name alone: what a node says
of itself is a statement signed with its certificate's key. It names the node,
its role and version, the address it gossips from, its services and groups, and
a sequence number that only grows. A receiver takes a statement when

  - the certificate is of this cluster and names the node,
  - its roles cover the role claimed, and with a serving group include backend,
  - the sequence number is newer than what is known of that node.

Anything else is refused and counted. A node is up only while memberlist reaches
it at the address that its statement names. A certificate names no pair, so one
backend can claim to serve the pair of another; the pair itself answers that
with a redirect.

Whoever holds the key and no certificate can at most make a node look dead until
it objects, and appears in no list.

# How it travels

	metadata    the statement without groups, at most 512 octets, with memberlist's own news
	broadcast   statements that fit a packet; in parts where a node has many groups
	push/pull   certificate chain and whole statement of every node known, over TCP

A receiver that lacks the chain for a signature asks that node by push/pull.
Changes of who serves, of draining, of readiness and of services leave at once, straight to
the other members and by broadcast; load and applied index follow every ten
rounds. A node that meets a statement of its own name with a sequence number
above its own (its clock went back) steps over it and speaks again.

A leaving node says so in a last statement; a member that vanishes without one
is dead. Its name can come back from another address after 30 seconds. Nodes
that are away for a day are forgotten here, never in the route table.
*/
package gossip

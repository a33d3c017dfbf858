/*
Package netns makes a whole cluster in network namespaces, each node behind its
own address, as the target of drills that cut links and fill disks.

	pst-ID-fw      the firewall: bridges dmz, data and mgmt, and nftables between them
	pst-ID-relayN  a relay in the dmz
	pst-ID-pair1-a, -b, -w   the pair behind the firewall; pair2 too, where users move
	pst-ID-dir     directory and DNS, in mgmt, and the operator's program that moves users
	pst-ID-world   whoever sends and reads, in the dmz

Only what the tiers have to say to each other passes the firewall: relays reach
the ports of LMTP, IMAP, POP3 and gossip of the data zone and LDAP and DNS of
mgmt; the data zone reaches the relays' gossip only. A cut is a rule at the
receiving end, so that packets vanish without an answer, and counts what it
drops: the count is the proof that the cut is real. Gossip and DNS are taken away
by such rules for a port.

For faults of disks every node has an ext4 of its own on a loop device, mounted
where only the nodes see it. A slow disk is one that is frozen and thawed in turn;
a read-only one has gone so by itself, as after an error in its structure; flushes
fail with EIO, and what was not flushed is lost, on one that was shut down without
its journal. All of it is the kernel's doing: nothing is injected into a daemon. A
write and a flush beside the node's files prove it. Mended is what e2fsck and the
journal make of it. Such a disk needs mkfs.ext4, e2fsck, mount and losetup.

Nothing of it touches the host's own network: the only way in is a thread of
this process that enters a namespace to connect. Everything made has the prefix
pst- and the ID of this run and is gone when Close returns; the processes end
with this one, whatever happens to it. Needs root, ip (iproute2) and nft
(nftables), on Linux.
*/
package netns

/*
Package dev runs a whole cluster on loopback: relays, pairs with their
witnesses, an LDAP directory and a DNS.

	Run -> layout (names, ports, ids, people; kept in DIR/dev.json)
	    -> certificates, configuration files, replica directories
	    -> directory and DNS in this process, a process for each node
	    -> all ready: cluster.json, the control socket
	    <- end of the context: relays, backends, witnesses stop in this order

The nodes are the real programs with configuration files like anybody's; this
package only writes the files, starts the processes and watches over them. A node
that ends is started again after a second, unless Options.NoRestart says no or
the operator stopped it.

What it keeps true: when Run has returned, none of its processes is left; when
this process is killed, the kernel ends them (on Linux). A folder given with
Options.Dir keeps everything for the next start, with the same addresses; a
folder that holds something else, or another running cluster, is refused.
cluster.json is there only after every part was ready, and its pids follow the
processes, 0 for one that is down.

It never sends mail to the Internet: the DNS that relays ask knows the cluster's
own domains only.
*/
package dev

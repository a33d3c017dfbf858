/*
Package packages tests what an operator installs: the deb and rpm packages that
deploy/packages/build makes of the commit that is checked out.

	build twice -> the same octets, sums and signature good
	units       -> systemd-analyze security says 2.0 or less of each
	deb         -> a clean Debian 12 (debootstrap, once for each run): installed,
	               started as its unit would start it but by us, with a socket for
	               notices and sockets for its ports; removed; purged
	rpm         -> file list, owners and modes; installed and erased
	boot        -> the same Debian with systemd as its first process, in a
	               container: the real units, sockets and watchdog
	readme      -> five of those in four networks with firewalls between them:
	               every line of deploy/README.md for machines of one's own is
	               typed there, up to mail and the probe of all ports; nightly
	               again with the lines of deploy/openldap/README.md
	containers  -> images built and deploy/container/compose.yaml run, as its
	               README says, by a dockerd of the test's own

It needs root, Debian's debootstrap, systemd, systemd-container, iproute2, nftables, rpm,
docker.io and docker-compose, Terraform or OpenTofu, and Debian's package archive;
without them its tests are skipped with the reason, and fail where POSTERN_CI is 1.
Nothing is left on the host.

It has no code outside its tests, and leaves what the daemons do to their own
packages and to integration/cluster.
*/
package packages

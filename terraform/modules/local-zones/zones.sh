#!/bin/sh
# Network namespaces on this host: the zones, their two firewalls, hosts, and the
# programs that run on hosts.
#
#   zones.sh home | unhome              the folder of everything's state
#   zones.sh up | down                  bridges and firewalls, which pass nothing yet
#   zones.sh firewall outer|inner       loads RULES and lets pass what they allow
#   zones.sh host | unhost              the namespace of NAME, at ADDRESS in ZONE
#   zones.sh rules NAME                 loads RULES into the namespace of a host
#   zones.sh start NAME PROGRAM ARG...  runs it there, again after each end
#   zones.sh stop NAME                  ends what runs there
#
# What is made has the name PREFIX-... Every command can be repeated: one that makes
# something takes away first what an attempt before has left.
set -eu

marker=.postern-local

fail() { echo "zones.sh: $*" >&2; exit 1; }

path() { echo "/run/netns/$PREFIX-$1"; }

# inside NAME COMMAND...: in the network of a host; everything else is this machine's.
inside() {
	where=$1
	shift
	nsenter --net="$(path "$where")" "$@"
}

# setting NAME KEY VALUE: a setting of the kernel, where it is known.
setting() {
	inside "$1" sh -c 'if [ -e "/proc/sys/net/$1" ]; then echo "$2" >"/proc/sys/net/$1"; fi' - "$2" "$3"
}

remove() {
	if [ -e "$(path "$1")" ]; then
		stop "$1"
		# What somebody else began there would hold the namespace.
		ip netns pids "$PREFIX-$1" | xargs -r kill -KILL 2>/dev/null || true
		ip netns del "$PREFIX-$1"
	fi
}

make() {
	remove "$1"
	ip netns add "$PREFIX-$1"
	ip -n "$PREFIX-$1" link set lo up
	# Every refusal is answered, without a ration, so that a wrong address is seen at
	# once and a probe can tell a refusal from silence.
	setting "$1" ipv4/icmp_ratemask 0
}

bridge() { # NAME BRIDGE ADDRESS
	ip -n "$PREFIX-$1" link add "$2" type bridge
	ip -n "$PREFIX-$1" addr add "$3/24" dev "$2"
	ip -n "$PREFIX-$1" link set "$2" up
	# Neighbours do not pass the firewall: their own rules are for that.
	setting "$1" bridge/bridge-nf-call-iptables 0
	setting "$1" bridge/bridge-nf-call-ip6tables 0
}

# bridge6 NAME BRIDGE ADDRESS: its IPv6 address too, if there is one.
bridge6() {
	if [ -n "$3" ]; then ip -n "$PREFIX-$1" addr add "$3/64" dev "$2" nodad; fi
}

up() {
	make outer
	make inner
	bridge outer internet "$WORLD_GW"
	bridge outer dmz "$DMZ_GW"
	bridge6 outer internet "$WORLD6"
	bridge6 outer dmz "$DMZ6"
	bridge inner data "$DATA_GW"
	bridge inner mgmt "$MGMT_GW"
	ip link add inner netns "$PREFIX-outer" type veth peer name uplink netns "$PREFIX-inner"
	ip -n "$PREFIX-outer" link set inner master dmz up
	ip -n "$PREFIX-inner" addr add "$INNER/24" dev uplink
	ip -n "$PREFIX-inner" link set uplink up
	ip -n "$PREFIX-inner" route add default via "$DMZ_GW"
	ip -n "$PREFIX-outer" route add "$DATA" via "$INNER"
	ip -n "$PREFIX-outer" route add "$MGMT" via "$INNER"
}

firewall() {
	printf '%s' "$RULES" | inside "$1" nft -f -
	setting "$1" ipv4/ip_forward 1
	setting "$1" ipv6/conf/all/forwarding 1
}

# gate is the firewall that the zone hangs on.
gate() {
	case $ZONE in
	internet | dmz) echo outer ;;
	data | mgmt) echo inner ;;
	*) fail "there is no zone $ZONE" ;;
	esac
}

unhost() {
	remove "$NAME"
	# A deleted namespace takes its links along a little later; the name is needed now.
	ip -n "$PREFIX-$(gate)" link del "$PORT" 2>/dev/null || true
}

host() {
	unhost
	make "$NAME"
	ip link add "$PORT" netns "$PREFIX-$(gate)" type veth peer name eth0 netns "$PREFIX-$NAME"
	ip -n "$PREFIX-$(gate)" link set "$PORT" master "$ZONE" up
	ip -n "$PREFIX-$NAME" addr add "$ADDRESS/24" dev eth0
	ip -n "$PREFIX-$NAME" link set eth0 up
	case $ZONE in
	internet) way=$WORLD_GW ;;
	dmz) way=$DMZ_GW ;;
	data) way=$DATA_GW ;;
	mgmt) way=$MGMT_GW ;;
	esac
	ip -n "$PREFIX-$NAME" route add default via "$way"
	if [ -n "$ADDRESS6" ]; then
		ip -n "$PREFIX-$NAME" addr add "$ADDRESS6/64" dev eth0 nodad
		case $ZONE in
		internet) way=$WORLD6 ;;
		dmz) way=$DMZ6 ;;
		*) fail "$NAME: no IPv6 in $ZONE" ;;
		esac
		ip -n "$PREFIX-$NAME" route add default via "$way"
	fi
	if [ "$ZONE" = dmz ]; then
		ip -n "$PREFIX-$NAME" route add "$DATA" via "$INNER"
		ip -n "$PREFIX-$NAME" route add "$MGMT" via "$INNER"
	fi
}

# start NAME PROGRAM ARG...
start() {
	name=$1
	shift
	[ -z "$(running "$name")" ] || fail "something runs on $name already"
	rm -f "$STATE/$name.stop"
	cd /
	NAME=$name ZONES_HOST=$PREFIX-$name setsid -f nsenter --net="$(path "$name")" sh "$0" keep "$@" </dev/null >>"$STATE/$name.log" 2>&1
}

# keep PROGRAM ARG...: runs a program until NAME.stop is there. SIGTERM is for the
# program: this one sees the file then.
keep() {
	trap : TERM
	until [ -e "$STATE/$NAME.stop" ]; do
		"$@" &
		while kill -0 $! 2>/dev/null; do wait $! || true; done
		[ -e "$STATE/$NAME.stop" ] || sleep 1
	done
}

# running NAME: pids of what start has begun there, and of nothing else.
running() {
	for pid in $(ip netns pids "$PREFIX-$1"); do
		if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qx "ZONES_HOST=$PREFIX-$1"; then echo "$pid"; fi
	done
}

# stop NAME: SIGTERM to what was started there, SIGKILL to what is left after 20 s.
stop() {
	[ -e "$(path "$1")" ] || return 0
	[ -n "$(running "$1")" ] || return 0
	[ ! -d "$STATE" ] || touch "$STATE/$1.stop"
	running "$1" | xargs -r kill -TERM 2>/dev/null || true
	tries=0
	while [ -n "$(running "$1")" ]; do
		tries=$((tries + 1))
		[ $tries -lt 200 ] || running "$1" | xargs -r kill -KILL 2>/dev/null || true
		[ $tries -lt 250 ] || fail "what runs on $1 cannot be ended"
		sleep 0.1
	done
}

home() {
	[ "$(id -u)" = 0 ] || fail "namespaces need root"
	for program in ip nft nsenter setsid; do
		command -v $program >/dev/null || fail "$program is not installed (iproute2, nftables, util-linux)"
	done
	if [ -e "$STATE" ] && [ ! -e "$STATE/$marker" ] && [ -n "$(ls -A "$STATE")" ]; then
		fail "$STATE is not empty and not of an example before"
	fi
	mkdir -p "$STATE"
	chmod 700 "$STATE"
	echo "$PREFIX" >"$STATE/$marker"
}

unhome() {
	if [ -e "$STATE/$marker" ]; then rm -rf "$STATE"; fi
}

command=$1
shift
case $command in
home | unhome | up | firewall | host | unhost | start | stop | keep) $command "$@" ;;
rules) printf '%s' "$RULES" | inside "$1" nft -f - ;;
down)
	remove inner
	remove outer
	;;
*) fail "$command: which command?" ;;
esac

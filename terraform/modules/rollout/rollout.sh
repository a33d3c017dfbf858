#!/bin/sh
# Brings the nodes of one tier to a release and to their new configuration, one after
# the other. It can be repeated: what is done already is left alone.
#
#   TOOL       postern, of the release
#   CLUSTER    its arguments that name the cluster
#   ENTER      command before it, for instance to enter a network; may be empty
#   TIER, RELEASE, NODES
#   REPLACE    command that stops a node, puts program and configuration in place and
#              starts it, with POSTERN_NODE
#   REFRESH    command that puts the configuration in place; may be empty
set -eu

# Folders and arguments are the operator's own, in the form of a command line.
tool() { $ENTER "$TOOL" "$@" $CLUSTER; }

plan() { tool upgrade plan --tier "$TIER" --to "$RELEASE" -o json; }

# field KEY: its values in the JSON of standard input, which has a field a line.
field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p"; }

count() { echo "$1" | wc -w; }

# A node that has just been started needs a moment, a pair its first election.
tries=0
while
	text=$(plan 2>&1) || true
	ready=$(echo "$text" | field state | grep -cx ready) || true
	[ "$ready" != "$(count "$NODES")" ] || echo "$text" | grep -q '"blocks"'
do
	tries=$((tries + 1))
	if [ $tries -gt "${SETTLE:-60}" ]; then
		# upgrade run says what is wrong, or replaces the node that it is wrong with.
		break
	fi
	sleep 0.5
done

# Nodes of this release take a new configuration by a reload where they can. Each is
# asked every time: one that an attempt before has not restarted says so again.
again=
if [ -n "$REFRESH" ]; then
	for node in $NODES; do
		text=$(plan)
		version=$(echo "$text" | awk -v node="$node" '$1 == "\"node\":" { here = $2 == "\"" node "\"," } here && $1 == "\"from\":" { gsub(/[",]/, "", $2); print $2 }')
		[ "$version" = "$RELEASE" ] || continue
		POSTERN_NODE=$node sh -c "$REFRESH" >&2
		text=$(tool reload "$node" -o json)
		# Whom to join is asked at the start only, so that it needs no other one.
		rest=$(echo "$text" | sed -n '/"needs_restart": \[/,/\]/s/^ *"\([a-z_.]*\)",\{0,1\}$/\1/p' | grep -vx gossip.join | tr '\n' ' ') || true
		[ -z "$rest" ] || echo "$node: is restarted for $rest" >&2
		[ -z "$rest" ] || again=$again,$node
	done
fi

# The way back to an older release is refused when the cluster has gone too far.
way=run
for version in $(plan | field from | sort -u); do
	newest=$(printf '%s\n%s\n' "$version" "$RELEASE" | sort -V | tail -n 1)
	[ "$newest" = "$RELEASE" ] || way=rollback
done
tool upgrade $way --tier "$TIER" --to "$RELEASE" ${again:+--restart "${again#,}"} \
	--drain-timeout "$DRAIN_TIMEOUT" --probe-timeout "$PROBE_TIMEOUT" --replace "$REPLACE"

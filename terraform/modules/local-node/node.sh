#!/bin/sh
# One node on this host, in its own network namespace.
#
#   node.sh config          keeps CONFIG as the file to be used from the next start on
#   node.sh certificates    makes what is missing or was made for other names
#   node.sh begin           starts the node, with the program of folder BIN
#   node.sh replace         the same for a node that runs: another program, the new file
#   node.sh refresh         puts the new file in place, which a reload reads
#   node.sh end             stops it; its directory stays
#
# Of a node NAME in the folder STATE:
#   NAME/           its directory      NAME.yaml       the file it was started with
#   NAME.bin        its program        NAME.next.yaml  the file for the next start
#   NAME.log        what it says
set -eu

fail() { echo "$NAME: $*" >&2; exit 1; }

tls=$DIR/tls

config() {
	umask 077
	printf '%s' "$CONFIG" >"$STATE/$NAME.next.yaml"
}

# issue FILE WANTED ARG...: WANTED is what the certificate was made for.
issue() {
	file=$tls/$1
	wanted=$2
	shift 2
	if [ -e "$file.pem" ] && [ "$(cat "$file.for" 2>/dev/null)" = "$wanted" ]; then return; fi
	"$TOOL" pki issue "$NAME" --ca-dir "$CA/ca" --out "$file" "$@" >/dev/null
	echo "$wanted" >"$file.for"
}

certificates() {
	mkdir -p "$tls"
	chmod 700 "$DIR"
	cp "$CA/ca.pem" "$tls/ca.pem"
	(umask 077 && cp "$CA/gossip.key" "$tls/gossip.key")
	issue node "$ROLES" --role "$ROLES"
	if [ -n "$PUBLIC_NAMES" ]; then
		issue public "$PUBLIC_NAMES $PUBLIC_ADDRESSES" --public --dns "$PUBLIC_NAMES" --ip "$PUBLIC_ADDRESSES"
	fi
}

# replicas makes the directories of the replicas, once. STATE/ids holds every id that
# ever had one: an empty directory must not come back under the id of a full one.
replicas() {
	missing=
	for id in $IDS; do
		if grep -qsx "$id" "$DIR/replicas"; then continue; fi
		if grep -qsx "$id" "$STATE/ids"; then
			fail "its directory is lost: raise its number in generations of the topology module"
		fi
		missing="$missing $id"
	done
	[ -n "$missing" ] || return 0
	"$STATE/$NAME.bin" --config "$STATE/$NAME.yaml" --create
	for id in $missing; do
		echo "$id" >>"$STATE/ids"
		echo "$id" >>"$DIR/replicas"
	done
}

# place FILE TO: by rename, so that what runs keeps its own.
place() {
	cp "$1" "$2.new"
	mv "$2.new" "$2"
}

begin() {
	sh "$ZONES" stop "$NAME"
	place "$BIN/postern-$TIER" "$STATE/$NAME.bin"
	place "$STATE/$NAME.next.yaml" "$STATE/$NAME.yaml"
	replicas
	sh "$ZONES" start "$NAME" "$STATE/$NAME.bin" --config "$STATE/$NAME.yaml"
}

replace() {
	"$BIN/postern-$TIER" --config "$STATE/$NAME.next.yaml" --check >&2
	begin
}

refresh() {
	if cmp -s "$STATE/$NAME.next.yaml" "$STATE/$NAME.yaml"; then return; fi
	"$STATE/$NAME.bin" --config "$STATE/$NAME.next.yaml" --check >&2
	place "$STATE/$NAME.next.yaml" "$STATE/$NAME.yaml"
}

end() { sh "$ZONES" stop "$NAME"; }

case $1 in
config | certificates | begin | replace | refresh | end) "$1" ;;
*) fail "$1: which command?" ;;
esac

#!/bin/sh
# What only the example needs: programs from the sources, keys, and the two services
# that a cluster does not bring along.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

fail() { echo "local.sh: $*" >&2; exit 1; }

# build makes the programs of VERSION from the sources around this folder, into OUT.
build() {
	command -v go >/dev/null || fail "version $VERSION is in no folder of binaries, and there is no Go to build it with"
	cd "$here/../../.."
	mkdir -p "$OUT"
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-X github.com/postern-mail/postern/cmd/internal/version.Release=$VERSION" -o "$OUT/" \
		./cmd/postern ./cmd/postern-relay ./cmd/postern-backend ./cmd/postern-witness
}

# keys makes what is missing of the cluster's secrets.
keys() {
	umask 077
	mkdir -p "$OPERATOR"
	[ -e "$OPERATOR/ca/ca.pem" ] || "$TOOL" pki init --cluster "$CLUSTER" --ca-dir "$OPERATOR/ca" >/dev/null
	cp "$OPERATOR/ca/ca.pem" "$OPERATOR/ca.pem"
	[ -e "$OPERATOR/admin.pem" ] || "$TOOL" pki issue operator --ca-dir "$OPERATOR/ca" --role admin --out "$OPERATOR/admin" >/dev/null
	"$TOOL" pki issue directory --ca-dir "$OPERATOR/ca" --public --dns directory --ip "$DIRECTORY" --out "$OPERATOR/directory" >/dev/null
	[ -e "$OPERATOR/gossip.key" ] || head -c 32 /dev/urandom | base64 >"$OPERATOR/gossip.key"
}

# put NAME: standard input as a file of STATE, by rename.
put() {
	(umask 077 && cat >"$STATE/$1.new")
	mv "$STATE/$1.new" "$STATE/$1"
}

files() {
	printf '%s' "$FILE" | put cluster.json
	printf '%s' "$PROBE" | put probe.json
	printf '%s' "$DRILLS" | put drills.yaml
	echo secret | put drill.password
}

# serve runs postern dev services on the host NAME.
serve() {
	sh "$ZONES" stop "$NAME"
	[ -z "$ZONE_FILE" ] || printf '%s' "$ZONE_FILE" | put "$NAME.zone"
	cp "$TOOL" "$STATE/$NAME.bin.new"
	mv "$STATE/$NAME.bin.new" "$STATE/$NAME.bin"
	# Arguments are words without spaces.
	sh "$ZONES" start "$NAME" "$STATE/$NAME.bin" dev services $ARGUMENTS
}

unserve() { sh "$ZONES" stop "$NAME"; }

case $1 in
build | keys | files | serve | unserve) "$1" ;;
*) fail "$1: which command?" ;;
esac

#!/bin/bash
# sizing.sh [SECONDS]: what `postern bench` measures on clusters from 1 relay and
# 1 pair to 4 relays and 8 pairs, each a development cluster on this machine, in
# four loads: nothing, sessions that poll, as much mail as is taken, and both.
# One JSON object a line on standard output. POSTERN_BIN: folder of the programs.
set -euo pipefail
secs=${1:-10}
src=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
bin=${POSTERN_BIN:-$work/bin}
dev=
end() {
  [ -z "$dev" ] || { kill -TERM "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; }
  dev=
}
trap 'end; rm -rf "$work"' EXIT
[ -x "$bin/postern" ] || (cd "$src" && CGO_ENABLED=0 go build -trimpath -o "$bin/" ./cmd/...)

load() { # load NAME arguments of bench...
  local name=$1; shift
  "$bin/postern" bench --dir "$work/c" --output json "$@" |
    python3 -c 'import json,sys; d=json.load(sys.stdin); d.update(relays=int(sys.argv[1]),pairs=int(sys.argv[2]),load=sys.argv[3]); print(json.dumps(d))' "$relays" "$pairs" "$name"
}
for shape in "1 1" "2 1" "2 2" "3 4" "4 8"; do
  read -r relays pairs <<<"$shape"
  rm -rf "$work/c"
  "$bin/postern" dev --dir "$work/c" --relays "$relays" --pairs "$pairs" --users 200 --no-restart --quiet &
  dev=$!
  for _ in $(seq 600); do [ -s "$work/c/cluster.json" ] && break; sleep .1; done
  load idle --for "${secs}s" --deliveries -1 --sessions 1 --poll 0
  load polls --for "${secs}s" --deliveries -1 --sessions 500 --poll 1s
  load mail --for "${secs}s" --deliveries 0 --senders 64 --sessions 0 --max-bytes 2000000000
  load both --for "${secs}s" --deliveries 200 --senders 32 --sessions 500 --poll 5s
  end
done

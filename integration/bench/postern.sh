# A system under test for the side-by-side bench: one relay, one pair (two data
# replicas and a witness) by `postern dev`, users from the bench's own slapd.
#
#   POSTERN_BIN      folder with the four programs (built when empty)
#   POSTERN_ACCESS   proxy (default): IMAP through the relay; backend: the serving
#                    replica's bench port. LMTP always goes to the bench port.
#
# Groups: relay holds postern dev and the relay, store both data replicas and
# the witness, directory slapd. Disk use counts every replica and the relay.
: "${POSTERN_ACCESS:=proxy}" "${POSTERN_BIN:=$BENCH_WORK/postern-bin}"
POSTERN_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PD=$BENCH_WORK/postern
SUT_SMTP_PORT=1 SUT_LMTP_PORT=1 SUT_IMAP_PORT=1 # known once it runs
SUT_LOGIN="user%05d"; SUT_RCPT="user%05d@$BENCH_DOMAIN"
SUT_GROUPS="relay store directory"
SUT_SPOOL=$PD
SUT_SETTINGS="Postern $(git -C "$POSTERN_SRC" rev-parse --short HEAD): accept mode through, 250 after a majority of three has fsynced, mutual TLS between all nodes, IMAP by $POSTERN_ACCESS, disk = 2 data replicas + witness + relay"

sut_install() { need slapd ldap-utils; (cd "$POSTERN_SRC" && CGO_ENABLED=0 go build -trimpath -o "$POSTERN_BIN/" ./cmd/...); }
sut_setup() { rm -rf "$PD"; mkdir -p "$PD"; }

# field FILTER: a value out of cluster.json, as a Python expression on c
field() { python3 -c 'import json,sys; c=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$PD/cluster.json" "$1"; }
port_of() { echo "${1##*:}"; }

postern_start() {
  local i p serving
  rm -f "$PD/cluster.json"
  cg_run relay "$POSTERN_BIN/postern" dev --dir "$PD" --relays 1 --pairs 1 --pair-prefix store --users 0 --domain "$BENCH_DOMAIN" \
    --directory "ldap://127.0.0.1:$BENCH_LDAP_PORT" --base "$BENCH_BASE" --bench-ports --no-restart --quiet >>"$BENCH_WORK/postern.out" 2>&1 &
  for i in $(seq 300); do [ -s "$PD/cluster.json" ] && break; sleep .1; done
  [ -s "$PD/cluster.json" ] || { log "postern dev did not become ready"; tail -5 "$BENCH_WORK/postern.out" >&2; return 1; }
  mkdir -p "$(cg_dir store)"
  for p in $(field '" ".join(str(n["pid"]) for n in c["pairs"][0]["nodes"])'); do echo "$p" >"$(cg_dir store)/cgroup.procs"; done
  serving=$("$POSTERN_BIN/postern" status --dir "$PD" --output json | python3 -c 'import json,sys; print(json.load(sys.stdin)["pairs"][0]["serving"])')
  SUT_SMTP_PORT=$(port_of "$(field 'c["relays"][0]["smtp"]')")
  SUT_LMTP_PORT=$(port_of "$(field '[n["lmtp"] for n in c["pairs"][0]["nodes"] if n["name"]=="'"$serving"'"][0]')")
  case $POSTERN_ACCESS in
    backend) SUT_IMAP_PORT=$(port_of "$(field '[n["imap"] for n in c["pairs"][0]["nodes"] if n["name"]=="'"$serving"'"][0]')") ;;
    *) SUT_IMAP_PORT=$(port_of "$(field 'c["relays"][0]["imap"]')") ;;
  esac
  wait_port "$SUT_SMTP_PORT" && wait_port "$SUT_LMTP_PORT" && wait_port "$SUT_IMAP_PORT"
}
sut_start() { dir_start; postern_start; }
sut_stop() { cg_stop relay; cg_stop store; dir_stop; }
sut_restart() { postern_start; }

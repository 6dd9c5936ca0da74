#!/usr/bin/env bash
# Install what is missing, build, and show the main job:
#   scripts/quickstart.sh                    in two throw-away network namespaces, with a proxy of its own
#   scripts/quickstart.sh --proxy URL ...    on this machine, through your proxy (more options go to `proxyvpn up`)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

case "${1:-}" in
    "" | --built) ;;
    --proxy | --proxy=*)
        scripts/build.sh
        say "proxyvpn up $*    (Ctrl-C ends it and undoes everything)"
        [ "$(id -u)" = 0 ] || exec sudo .venv/bin/proxyvpn up "$@"
        exec .venv/bin/proxyvpn up "$@" ;;
    *) die "usage: scripts/quickstart.sh [--proxy URL [OPTION]...]" ;;
esac

if [ "${1:-}" != --built ]; then
    scripts/build.sh
    need_packages curl iproute2 nftables procps
    if [ "$(id -u)" != 0 ]; then
        say "network namespaces need root: sudo"
        exec sudo "$PWD/scripts/quickstart.sh" --built
    fi
fi

readonly MACHINE=pvdemo-$$-machine WORLD=pvdemo-$$-world
readonly PROXY=10.72.0.1:3128 SITE=198.51.100.10
work=$(mktemp -d /tmp/proxyvpn-demo.XXXXXX)
children=()

clean_up() {
    for child in "${children[@]}"; do kill "$child" 2> /dev/null || true; done
    wait 2> /dev/null || true
    for space in $MACHINE $WORLD; do ip netns del "$space" 2> /dev/null || true; done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
trap 'echo "quickstart.sh: this failed: $BASH_COMMAND" >&2' ERR

machine() { ip netns exec $MACHINE "$@"; }
indented() { sed 's/^/    /'; }
dump() {
    machine sh -c 'for family in -4 -6; do ip $family rule; ip $family route show table all; done
        ip address; nft list ruleset; sysctl -a -r "^net\.(ipv4|ipv6)" 2> /dev/null' | grep -v -e stable_secret -e fastopen_key
}
# wait_for_line FILE PATTERN PID
wait_for_line() {
    for _ in $(seq 200); do
        if grep -q -e "$2" "$1" 2> /dev/null; then return; fi
        kill -0 "$3" 2> /dev/null || break
        sleep 0.05
    done
    cat "$work"/*.err "$1" >&2
    die "no line with $2 in $1"
}
send_udp() { machine bash -c 'echo hello > /dev/udp/'$SITE/7 2> /dev/null || true; }
udp_arrived() { grep -c '^udp:' "$work/log" || true; }

say "two throw-away namespaces: a machine (10.72.0.2) and a world with a proxy ($PROXY) and a site ($SITE)"
ip netns add $MACHINE
ip netns add $WORLD
ip -n $MACHINE link add eth0 type veth peer name eth0 netns $WORLD
ip -n $MACHINE address add 10.72.0.2/24 dev eth0
ip -n $WORLD address add 10.72.0.1/24 dev eth0
ip -n $WORLD address add $SITE/32 dev eth0
for space in $MACHINE $WORLD; do ip -n "$space" link set lo up; ip -n "$space" link set eth0 up; done
ip -n $MACHINE route add default via 10.72.0.1

(exec ip netns exec $WORLD .venv/bin/python scripts/demo_servers.py 3128 80 7 "$work/log" 2> "$work/servers.err") &
children+=($!)
wait_for_line "$work/log" ready $!
send_udp
wait_for_line "$work/log" '^udp:' $!
say "before: a UDP packet to $SITE arrives"
grep '^udp:' "$work/log" | indented
dump > "$work/before"

say "proxyvpn up --killswitch --proxy http://$PROXY --dns 198.51.100.53"
(exec ip netns exec $MACHINE .venv/bin/proxyvpn up --killswitch --proxy "http://$PROXY" --dns 198.51.100.53 \
    --state-dir "$work/state" > "$work/up.out" 2> "$work/up.err") &
up=$!
children+=("$up")
wait_for_line "$work/up.out" '^ready:' $up
indented < "$work/up.out"

say "curl http://$SITE/"
machine curl --noproxy '*' -sS --max-time 20 "http://$SITE/" | indented
say "the way it took, from the log of the proxy:"
grep '^proxy:' "$work/log" | indented

send_udp
machine curl --noproxy '*' -sS --max-time 20 -o /dev/null "http://$SITE/again"
[ "$(udp_arrived)" = 1 ] || die "a UDP packet got past the killswitch"
say "a second UDP packet to $SITE was stopped by the killswitch"

say "proxyvpn status"
machine .venv/bin/proxyvpn status --state-dir "$work/state" | indented

say "proxyvpn teardown"
machine .venv/bin/proxyvpn teardown --state-dir "$work/state" 2>&1 | indented
wait $up || die "up ended with exit code $?"
dump > "$work/after"
diff "$work/before" "$work/after" > "$work/diff" || { cat "$work/diff" >&2; die "the machine is not as it was"; }
say "rules, routes, links, firewall and sysctls are what they were before"
say "to use it here:  scripts/quickstart.sh --proxy http://YOUR-PROXY:3128"

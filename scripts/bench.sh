#!/usr/bin/env bash
# Build and install what is missing, and measure proxyvpn beside its peers, in network namespaces of its own:
#   scripts/bench.sh             about twelve minutes; draws docs/benchmark.svg
#   scripts/bench.sh --short     under two minutes; rougher, and draws nothing
# More are measured when HEV_SOCKS5_TUNNEL, SING_BOX, TUN2SOCKS or TUN2PROXY name their executables. Figures are kept as
# JSON in bench/results/. `--help` shows what else can be chosen. No other site is contacted while it measures.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

scripts/build.sh
need_packages haproxy redsocks nftables iproute2 util-linux
need_rust
say "building bench/netload"
(cd bench && cargo build --release --locked --quiet)

picture=(--svg docs/benchmark.svg)
for word; do
    case $word in --help | -h) exec .venv/bin/python -m bench.run --help ;; esac
    case $word in --short | --svg* | --scenario* | --program*) picture=() ;; esac
done
keep=HEV_SOCKS5_TUNNEL,SING_BOX,TUN2SOCKS,TUN2PROXY
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=$keep .venv/bin/python -m bench.run "${picture[@]}" "$@"
exec .venv/bin/python -m bench.run "${picture[@]}" "$@"

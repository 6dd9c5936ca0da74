#!/usr/bin/env bash
# What leaves the machine: offer every kind of packet in every phase of a tunnel's life, count on the wire, print tables.
#   scripts/leak-test.sh [PACKETS [PYTEST-OPTION...]]     so many packets for each cell (20000: about six minutes)
# In network namespaces of its own; this machine's own network is not touched. Needs root and scripts/build.sh --dev.
set -euo pipefail
cd "$(dirname "$0")/.."

export PROXYVPN_LEAK_PACKETS=${1:-20000}
shift $(($# > 0))
if [ "$(id -u)" != 0 ]; then exec sudo --preserve-env=PROXYVPN_LEAK_PACKETS "$0" "$PROXYVPN_LEAK_PACKETS" "$@"; fi
exec scripts/test-privileged.sh -q tests/netns/test_leaks.py "$@"

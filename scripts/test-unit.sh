#!/usr/bin/env bash
# The tests that need no privilege: pytest and cargo test. Under half a minute once built.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh
need_rust

status=0
say "cargo test"
cargo test --locked || status=1
say "pytest, without privilege"
env -u PROXYVPN_PRIVILEGED_TESTS .venv/bin/python -m pytest -m 'not privileged' "$@" || status=1
exit $status

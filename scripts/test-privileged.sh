#!/usr/bin/env bash
# The tests that need root: real servers in network namespaces of their own. This machine's own network is not touched.
# A missing program or a skipped test is a failure. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

export PROXYVPN_PRIVILEGED_TESTS=1
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PROXYVPN_PRIVILEGED_TESTS .venv/bin/python -m pytest -p no:cacheprovider -m privileged "$@"
exec .venv/bin/python -m pytest -p no:cacheprovider -m privileged "$@"

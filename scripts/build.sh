#!/usr/bin/env bash
# Build proxyvpn into .venv/, installing what is missing. A second run with nothing changed does nothing.
#   scripts/build.sh          what is needed to run
#   scripts/build.sh --dev    and what is needed to test and lint
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

lock=requirements.lock
[ "${1:-}" != --dev ] || lock=requirements-dev.lock

need_packages build-essential python3-venv libnftables1 iproute2 ca-certificates
# Kerberos' library for Python comes as source, and only the tests need it here
[ "${1:-}" != --dev ] || need_packages libkrb5-dev
need_rust
python=$(find_python)

if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

stamp_of() { { "$python" --version; rustc --version; cat "$@"; } | sha256sum; }

if [ "$(stamp_of "$lock")" != "$(cat ".venv/.$lock" 2> /dev/null)" ]; then
    say "installing the pinned Python packages of $lock"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    stamp_of "$lock" > ".venv/.$lock"
fi

mapfile -t sources < <(find rust -name '*.rs' | LC_ALL=C sort; printf '%s\n' Cargo.toml Cargo.lock pyproject.toml scripts/backend.py)
if [ "$(stamp_of "${sources[@]}")" != "$(cat .venv/.built 2> /dev/null)" ] ||
    ! compgen -G 'python/proxyvpn/_tunstack*.so' > /dev/null || [ ! -x .venv/bin/proxyvpn ] ||
    [ ! -e python/proxyvpn/proxyvpn-helper ]; then
    say "building (release; a minute or two the first time)"
    { VIRTUAL_ENV=$PWD/.venv .venv/bin/maturin develop --quiet --release --locked &&
        .venv/bin/python scripts/backend.py; } > .venv/.build.log 2>&1 || {
        cat .venv/.build.log >&2
        die "the build failed"
    }
    stamp_of "${sources[@]}" > .venv/.built
fi
say "built: .venv/bin/proxyvpn"

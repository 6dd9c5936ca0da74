#!/usr/bin/env bash
# Every linter, with nothing forgiven.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh
scripts/build.sh --dev
need_rust

status=0
run() { say "$*"; "$@" || { say "FAILED: $*"; status=1; }; }

run .venv/bin/ruff format --check .
run .venv/bin/ruff check .
run .venv/bin/mypy
run .venv/bin/lint-imports
cargo fmt --version > /dev/null 2>&1 && cargo clippy --version > /dev/null 2>&1 ||
    rustup component add clippy rustfmt > /dev/null 2>&1 || die "cargo fmt and cargo clippy are missing"
run cargo fmt --check
run cargo clippy --locked --all-targets --all-features -- -D warnings
for workspace in bench fuzz; do
    run cargo fmt --check --manifest-path $workspace/Cargo.toml
    run cargo clippy --locked --manifest-path $workspace/Cargo.toml --target-dir $workspace/target --all-targets -- \
        -D warnings
done

if ! cargo deny --version > /dev/null 2>&1; then
    say "installing cargo-deny (a few minutes, once)"
    cargo install --quiet --locked cargo-deny
fi
run cargo deny --locked --all-features check --hide-inclusion-graph licenses bans sources
# The database of advisories is a repository that not every machine can reach.
if cargo deny fetch db > /dev/null 2>&1; then
    run cargo deny --locked --all-features check --hide-inclusion-graph advisories
else
    say "cargo deny check advisories: left out, its database cannot be reached from here"
fi
exit $status

#!/usr/bin/env bash
# Fuzz each target for so many seconds: scripts/fuzz.sh [seconds, 60]. Needs cargo and a C++ compiler (libFuzzer).
# What `cargo fuzz run --sanitizer none` would do, without cargo-fuzz or a nightly compiler; then the Python target,
# where the package atheris has been built for this Python.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-60}
for tool in cargo c++; do
    command -v "$tool" >/dev/null || { echo "fuzz.sh: $tool is missing" >&2; exit 1; }
done
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Ccodegen-units=1"
for part in inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$part"
done
export CARGO_TARGET_DIR=$PWD/target
RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg fuzzing $coverage" cargo build --locked --target "$host"
for source in fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    mkdir -p "corpus/$target"
    "target/$host/debug/$target" -max_total_time="$seconds" -max_len=70000 "corpus/$target" "seeds/$target"
done

python=../.venv/bin/python
[ -d target/atheris ] || "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    --target target/atheris atheris==3.0.0 || { echo "fuzz.sh: no atheris for this Python; messages.py left out" >&2; exit 0; }
mkdir -p corpus/messages seeds/messages
PYTHONPATH=target/atheris "$python" messages.py -max_total_time="$seconds" -max_len=16400 -rss_limit_mb=512 \
    corpus/messages seeds/messages

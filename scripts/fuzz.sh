#!/usr/bin/env bash
# Fuzz for so many seconds each: scripts/fuzz.sh [seconds, 60] [target...]; all targets of fuzz/fuzz_targets/ if none is
# named. Needs cargo and a C++ compiler (libFuzzer). Seeds come first, then what earlier runs found (fuzz/corpus/).
# What `cargo fuzz run --sanitizer none` would do, without cargo-fuzz or a nightly compiler. Last the Python target,
# messages, where the package atheris has been built for this Python.
#
# A finding is a file in fuzz/artifacts/TARGET/; to see it again: fuzz/target/*/debug/TARGET FILE
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh
need_rust
cd fuzz

seconds=${1:-60}
shift || true
wanted=${*:-all}
targets=()
for word; do [ "$word" = messages ] || targets+=("$word"); done
[ "$wanted" != all ] || mapfile -t targets < <(basename -s .rs fuzz_targets/*.rs)
command -v c++ > /dev/null || die "a C++ compiler is missing"

host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Ccodegen-units=1"
for part in inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$part"
done
export CARGO_TARGET_DIR=$PWD/target
say "building the fuzz targets"
RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg fuzzing $coverage" cargo build --quiet --locked --target "$host"

status=0
for target in "${targets[@]}"; do
    say "fuzzing $target for $seconds s"
    mkdir -p "corpus/$target" "artifacts/$target" "seeds/$target"
    log=artifacts/$target/log
    "target/$host/debug/$target" -max_total_time="$seconds" -max_len=70000 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target" > "$log" 2>&1 && tail -n 1 "$log" || {
        tail -n 40 "$log"
        say "FAILED: $target"
        status=1
    }
done

python=../.venv/bin/python
if [[ $wanted = all || " $wanted " = *" messages "* ]]; then
    say "fuzzing messages for $seconds s"
    if [ -d target/atheris ] || "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        --target target/atheris atheris==3.0.0 2> /dev/null; then
        mkdir -p corpus/messages seeds/messages artifacts/messages
        log=artifacts/messages/log
        PYTHONPATH=target/atheris "$python" messages.py -max_total_time="$seconds" -max_len=16400 -rss_limit_mb=512 \
            -artifact_prefix=artifacts/messages/ corpus/messages seeds/messages > "$log" 2>&1 && tail -n 1 "$log" || {
            tail -n 40 "$log"
            say "FAILED: messages"
            status=1
        }
    else
        say "no atheris for this Python; messages.py is left out"
    fi
fi
exit $status

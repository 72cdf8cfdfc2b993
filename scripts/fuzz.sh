#!/usr/bin/env bash
# Fuzzes every parser with libFuzzer, TIME seconds each, as many targets at a time as there are cores.
#
#   scripts/fuzz.sh TIME [TARGET...]
#
# Inputs that fail are kept in target/fuzz/faults/TARGET. New inputs that reach more code are kept in target/fuzz/corpus/TARGET,
# so that a later run goes on from there. The stable compiler takes the sanitizer's options with RUSTC_BOOTSTRAP; with
# `--target` build scripts and procedural macros are built without them.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:?expected the seconds for each target}
shift
if [ $# -eq 0 ]; then
    for folder in fuzz/corpus/*/; do
        set -- "$@" "$(basename "$folder")"
    done
fi

target=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
build=target/fuzz/build
mkdir -p target/fuzz
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$build \
    RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers $coverage ${RUSTFLAGS:-}" \
    "${CARGO:-cargo}" build --locked --profile fuzz --target "$target" -p zonda-fuzz --features libfuzzer
program=$PWD/$build/$target/fuzz/zonda-fuzz

run() {
    local name=$1 faults=target/fuzz/faults/$1 corpus=target/fuzz/corpus/$1
    mkdir -p "$faults" "$corpus"
    if ZONDA_FUZZ=$name "$program" "$corpus" "fuzz/corpus/$name" -artifact_prefix="$faults/" -max_total_time="$time" \
        -max_len=16384 -timeout=25 -rss_limit_mb=4096 -print_final_stats=1 >"target/fuzz/$name.log" 2>&1; then
        echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz/$name.log") inputs, no fault"
    else
        echo "$name: FAULT, see target/fuzz/$name.log and $faults" >&2
        return 1
    fi
}
export -f run
export program time
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c 'run {}'

#!/usr/bin/env bash
# Runs the kernels' tests under AddressSanitizer. Arguments go to `cargo test`.
#
# The sanitizer is an unstable option, which the stable compiler accepts with RUSTC_BOOTSTRAP. With `--target`, build scripts and
# procedural macros are built without it.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=target/asan # the flag changes every crate
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers ${RUSTFLAGS:-}"
# The models of other tests are not needed, and leaks at the end of a test are not memory errors.
export ASAN_OPTIONS="detect_leaks=0 ${ASAN_OPTIONS:-}"
exec "${CARGO:-cargo}" test -p zonda-kernels --target "$target" --lib --tests "$@"

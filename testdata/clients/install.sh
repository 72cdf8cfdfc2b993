#!/usr/bin/env bash
# Installs OpenAI's Python and JavaScript clients, and Playwright, into target/clients, for crates/cli/tests/clients.rs and
# page.rs. Without Node or a network it reports what it skips and continues; the tests are then skipped with a message.
# Playwright drives the system's Chromium (scripts/setup.sh chromium), so its package without browsers is enough.
set -uo pipefail
cd "$(dirname "$0")/../.."
readonly PYTHON_CLIENT=3.54.0 NODE_CLIENT=7.57.0 PLAYWRIGHT=1.65.1
readonly target=${1:-target/clients}

say() { echo "clients: $*" >&2; }

if [ -e "$target/python/openai" ]; then
    :
elif ! command -v python3 >/dev/null; then
    say "skipping the Python client: there is no python3"
elif python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --target "$target/python.partial" "openai==$PYTHON_CLIENT"; then
    mv "$target/python.partial" "$target/python"
else
    rm -rf "$target/python.partial"
    say "skipping the Python client: pip could not install it"
fi

# node_package NAME VERSION WHAT: installs a package into the folder that both packages share.
node_package() {
    if [ -e "$target/node/node_modules/$1" ]; then
        :
    elif ! command -v npm >/dev/null; then
        say "skipping $3: there is no npm"
    elif mkdir -p "$target/node" && npm install --silent --no-audit --no-fund --prefix "$target/node" "$1@$2"; then
        :
    else
        rm -rf "$target/node/node_modules/$1"
        say "skipping $3: npm could not install it"
    fi
}

node_package openai "$NODE_CLIENT" "the JavaScript client"
node_package playwright-core "$PLAYWRIGHT" "Playwright, which drives the web page"

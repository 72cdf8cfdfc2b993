#!/usr/bin/env bash
# Installs OpenAI's and Anthropic's Python clients, OpenAI's JavaScript client, and Playwright, into target/clients, for
# crates/cli/tests/clients.rs and page.rs. Without Node or a network it reports what it skips and continues; the tests are
# then skipped with a message.
# Playwright drives the system's Chromium (scripts/setup.sh chromium), so its package without browsers is enough.
# Versions and hashes are in requirements.txt (made by scripts/pin.py) and package-lock.json (made by npm); what differs from
# them is not installed.
set -uo pipefail
cd "$(dirname "$0")/../.."
readonly target=${1:-target/clients}

say() { echo "clients: $*" >&2; }

if [ -e "$target/python/openai" ] && [ -e "$target/python/anthropic" ]; then
    :
elif ! command -v python3 >/dev/null; then
    say "skipping the Python clients: there is no python3"
elif python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --only-binary=:all: --require-hashes --target "$target/python.partial" -r testdata/clients/requirements.txt; then
    rm -rf "$target/python"
    mv "$target/python.partial" "$target/python"
else
    rm -rf "$target/python.partial"
    say "skipping the Python clients: pip could not install them"
fi

if [ -e "$target/node/node_modules/openai" ] && [ -e "$target/node/node_modules/playwright-core" ]; then
    :
elif ! command -v npm >/dev/null; then
    say "skipping the JavaScript client and Playwright: there is no npm"
elif mkdir -p "$target/node" &&
    cp testdata/clients/package.json testdata/clients/package-lock.json testdata/clients/.npmrc "$target/node" &&
    npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$target/node"; then
    :
else
    rm -rf "$target/node"
    say "skipping the JavaScript client and Playwright: npm could not install them"
fi

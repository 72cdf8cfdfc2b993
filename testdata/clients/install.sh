#!/usr/bin/env bash
# Installs OpenAI's Python and JavaScript clients into target/clients, for crates/cli/tests/clients.rs. Without Node or
# the network it says what is left out and goes on: the tests then say that they are skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."
readonly PYTHON_CLIENT=3.54.0 NODE_CLIENT=7.57.0
readonly target=${1:-target/clients}

say() { echo "clients: $*" >&2; }

if [ -e "$target/python/openai" ]; then
    :
elif ! command -v python3 >/dev/null; then
    say "left out the Python client: there is no python3"
elif python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --target "$target/python.partial" "openai==$PYTHON_CLIENT"; then
    mv "$target/python.partial" "$target/python"
else
    rm -rf "$target/python.partial"
    say "left out the Python client: pip could not install it"
fi

if [ -e "$target/node/node_modules/openai" ]; then
    :
elif ! command -v npm >/dev/null; then
    say "left out the JavaScript client: there is no npm"
elif mkdir -p "$target/node" && npm install --silent --no-audit --no-fund --prefix "$target/node" "openai@$NODE_CLIENT"; then
    :
else
    rm -rf "$target/node"
    say "left out the JavaScript client: npm could not install it"
fi

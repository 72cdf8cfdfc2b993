#!/bin/sh
# Makes the README's picture of a report: scripts/picture.sh REPORT.html OUT.png. Needs Chromium.
set -eu
for name in chromium chromium-browser google-chrome chrome; do
    chrome=$(command -v "$name") && break
done
if [ -z "${chrome:-}" ]; then
    echo "no picture: Chromium is not installed (Debian: apt-get install chromium)" >&2
    exit 0
fi
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
"$chrome" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" \
    --window-size="${SIZE:-1280,1100}" --screenshot="$2" "file://$(realpath "$1")" >/dev/null 2>&1
bytes=$(wc -c <"$2")
echo "$2: $((bytes / 1024)) KiB"
[ "$bytes" -lt 307200 ] || echo "warning: $2 is larger than 300 KiB" >&2

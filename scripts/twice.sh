#!/bin/sh
# Runs an experiment twice and compares the two records: scripts/twice.sh [OUT] [-- options of zonda bench].
# Without options: SmolLM2-135M on every backend of the build, five runs. The machine should be idle: an interval covers only
# the conditions while its record was made.
set -eu
cd "$(dirname "$0")/.."
zonda=${ZONDA:-target/release/zonda}
out=results/twice
if [ $# -gt 0 ] && [ "$1" != -- ]; then out=$1 && shift; fi
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- -m smollm2-135m --runs 5
for record in a b; do
    "$zonda" bench "$@" --out "$out/$record" >/dev/null
done
"$zonda" bench compare "$out/a/results.json" "$out/b/results.json"

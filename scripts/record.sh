#!/bin/sh
# Makes the record of this machine: every backend on SmolLM2-135M, native and llama.cpp on a Mistral-7B-shaped model, the
# reports, and the README's picture of the first. Options go to `zonda bench` (default --runs 3). MACHINE names the folder.
# MODEL_7B names an existing model file; without it, one of 4 GB is made under target/.
set -eu
cd "$(dirname "$0")/.."
zonda=target/release/zonda

slug='import json, re, sys
m = json.load(sys.stdin)["machine"]
name = re.sub(r"\(r\)|\(tm\)|processor|cpu|@.*", "", (m["cpu"] or m["arch"]).lower())
print(re.sub(r"[^a-z0-9]+", "-", name).strip("-") + "-%dc" % (m["physical_cores"] or m["logical_cores"]))'
machine=${MACHINE:-$("$zonda" doctor --quick --json | python3 -c "$slug")}
out=benchmarks/record/$machine/$(date -u +%F)
[ ! -e "$out" ] || out=$out-$(date -u +%H%M) # a record is never overwritten

[ $# -gt 0 ] || set -- --runs 3
large=${MODEL_7B:-target/mistral-7b-q4_0.gguf}
[ -e "$large" ] || "$zonda" synth mistral-7b --quant q4_0 -o "$large"
"$zonda" pull smollm2-135m >&2
[ -e target/smollm2-135m-f32 ] || "$zonda" convert smollm2-135m -o target/smollm2-135m-f32 --dtype f32 >&2

# A failed run is a row of the record, so the reports exist in any case. MLX multiplies quantised weights with one thread on a
# CPU and would need half an hour for a long prompt of the 7B, so it is left out there.
status=0
"$zonda" bench -m smollm2-135m -m target/smollm2-135m-f32 --out "$out" "$@" || status=$?
"$zonda" bench -m "$large" --backend native,llama-cpp --out "$out-7b" "$@" || status=$?
[ -e "$out/report.html" ] || exit "$status"
scripts/picture.sh "$out/report.html" docs/report.png
echo "record: $out (exit status of the bench: $status)"
exit "$status"

#!/usr/bin/env bash
# Captures and encodes preference data with the default model and the shipped SAE, then compares SparseRM with its
# controls by grouped cross-validation. Data sets are files given as NAME=FILE; without any, the shipped pairs.
#   bash examples/benchmarks/accuracy.sh TruthfulQA=TruthfulQA.csv HH-RLHF=hh-rlhf-harmless-base-test.jsonl.gz
# Options for accuracy.py come after --. Runs are kept in .benchmarks/ and continued, not repeated.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(bash "$root/tests/setup.sh")
sets=() options=()
while [ $# -gt 0 ]; do
    if [ "$1" = "--" ]; then shift; options=("$@"); break; fi
    sets+=("$1"); shift
done
[ ${#sets[@]} -gt 0 ] || sets=("geography=$root/examples/data/geography-train.jsonl")
runs=()
for set in "${sets[@]}"; do
    name=${set%%=*} file=${set#*=} dir="$root/.benchmarks/${set%%=*}"
    "$venv/bin/sparserm" extract "$file" --model smollm2-135m --layer 14 --on-bad-row reject --run "$dir" >&2
    "$venv/bin/sparserm" encode --sae "$root/examples/sae/smollm2-135m" --run "$dir" >&2
    runs+=(--run "$name=$dir")
done
exec "$venv/bin/python" "$root/examples/benchmarks/accuracy.py" "${runs[@]}" --output "$root/.benchmarks/accuracy.json" "${options[@]}"

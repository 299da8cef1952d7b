#!/usr/bin/env bash
# Captures and encodes preference data with the default model and the shipped SAE, compares SparseRM with its controls
# by grouped cross-validation on each, tests what was fitted on one on the others, and prints it all as Markdown.
# Data sets are files given as NAME=FILE; without any, those of the folder $SPARSERM_BENCHMARK_DATA, else the shipped pairs.
#   bash examples/benchmarks/accuracy.sh TruthfulQA=TruthfulQA.csv HH-RLHF=hh-rlhf-harmless-base-test.jsonl.gz
# Options of `sparserm compare` come after --, such as -- --quick or -- --sweep directions --head mlp --loss margin.
# Runs are kept in .benchmarks/ and continued, not repeated: the model sees each token once, whatever is swept.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(bash "$root/tests/setup.sh")
sets=() options=()
while [ $# -gt 0 ]; do
    if [ "$1" = "--" ]; then shift; options=("$@"); break; fi
    sets+=("$1"); shift
done
if [ ${#sets[@]} -eq 0 ] && [ -n "${SPARSERM_BENCHMARK_DATA:-}" ]; then
    for set in TruthfulQA=TruthfulQA.csv HH-RLHF=hh-rlhf-harmless-base-test.jsonl.gz \
        "RewardBench 2 safety=reward-bench-2-safety-pairs.jsonl"; do
        file="$SPARSERM_BENCHMARK_DATA/${set#*=}"
        if [ -f "$file" ]; then sets+=("${set%%=*}=$file"); else echo "no $file: left out" >&2; fi
    done
fi
[ ${#sets[@]} -gt 0 ] || sets=("geography=$root/examples/data/geography-train.jsonl")
names=() runs=()
for set in "${sets[@]}"; do
    name=${set%%=*} file=${set#*=} run="$root/.benchmarks/${set%%=*}"
    "$venv/bin/sparserm" extract "$file" --model smollm2-135m --layer 14 --on-bad-row reject --run "$run" >&2
    "$venv/bin/sparserm" encode --sae "$root/examples/sae/smollm2-135m" --run "$run" >&2
    names+=("$name") runs+=("$run")
done
for i in "${!runs[@]}"; do
    others=()
    for j in "${!runs[@]}"; do
        [ "$i" = "$j" ] || others+=(--other "${names[$j]}=${runs[$j]}")
    done
    "$venv/bin/sparserm" compare --run "${runs[$i]}" --name "${names[$i]}" "${others[@]}" "${options[@]}" > /dev/null
done
exec "$venv/bin/python" "$root/examples/benchmarks/accuracy.py" "${runs[@]}" --output "$root/.benchmarks/accuracy.json"

#!/usr/bin/env bash
# Measures `fit --invariant-to` on preference data: captures the pairs, the same pairs restyled, and twins of another
# data set made by other rules, and prints a table for each data set.
#
#   SPARSERM_BENCHMARK_DATA=FOLDER bash examples/benchmarks/style.sh [OPTIONS OF extract]
#
# Twins are made of HH-RLHF's responses, for HH-RLHF itself of those of TruthfulQA. Runs are kept in .benchmarks/style.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(bash "$root/tests/setup.sh")
data=${SPARSERM_BENCHMARK_DATA:?expected the folder of the data sets}
kept="$root/.benchmarks/style"
mkdir -p "$kept"
options=(--model smollm2-135m --layer 14 --on-bad-row reject "$@")
hh=hh-rlhf-harmless-base-test.jsonl.gz truthful=TruthfulQA.csv

twins() { # SOURCE NAME
    "$venv/bin/python" "$root/examples/data/make_twins.py" "$data/$1" "$kept/$2.jsonl" --styles courteous,listed,polished >&2
    "$venv/bin/sparserm" extract "$kept/$2.jsonl" "${options[@]}" --positions pooled --run "$kept/$2" >&2
}
twins "$hh" twins-hh
twins "$truthful" twins-truthful
for set in TruthfulQA=$truthful HH-RLHF=$hh RewardBench-2-safety=reward-bench-2-safety-pairs.jsonl; do
    name=${set%%=*} file="$data/${set#*=}" from=twins-hh
    [ "$name" != HH-RLHF ] || from=twins-truthful
    "$venv/bin/sparserm" extract "$file" "${options[@]}" --sae "$root/examples/sae/smollm2-135m" --run "$kept/$name" >&2
    "$venv/bin/python" "$root/examples/benchmarks/disturb.py" restyled-both "$file" "$kept/$name-restyled.jsonl"
    "$venv/bin/sparserm" extract "$kept/$name-restyled.jsonl" "${options[@]}" --positions pooled \
        --run "$kept/$name-restyled" >&2
    echo "### $name"
    "$venv/bin/python" "$root/examples/benchmarks/style.py" "$kept/$name" "$kept/$name-restyled" "$kept/$from" \
        --output "$kept/$name.json"
done

#!/usr/bin/env bash
# Fits a reward model on the shipped pairs, exports it for transformers, and has RewardBench's own code evaluate the
# export on the held-out pairs; the accuracy must be the one that `sparserm evaluate` finds.
# rewardbench pins an older transformers (and imports what newer setuptools lack), so it gets an environment of its
# own. Everything goes to .benchmarks/.
#   bash examples/benchmarks/rewardbench.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(bash "$root/tests/setup.sh")
work="$root/.benchmarks/rewardbench" bench="$root/.benchmarks/rewardbench-environment"
mkdir -p "$work"
if [ ! -x "$bench/bin/rewardbench" ]; then
    echo "installing rewardbench into $bench (once)" >&2
    "$venv/bin/python" -m venv "$bench"
    "$bench/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/tests/constraints.txt" >&2
    "$bench/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/tests/constraints.txt" "rewardbench==0.1.4" "setuptools<81" >&2
fi

export SPARSERM_RUN="$work/run"
cd "$work"
# In float32, since bfloat16 rounds differently in every order of computing.
"$venv/bin/sparserm" extract "$root/examples/data/geography-train.jsonl" --model smollm2-135m --layer 14 --dtype float32 >&2
"$venv/bin/sparserm" encode --sae "$root/examples/sae/smollm2-135m" >&2
"$venv/bin/sparserm" frequency >&2
"$venv/bin/sparserm" select --top-k 64 >&2
"$venv/bin/sparserm" fit >&2
"$venv/bin/sparserm" score "$root/examples/data/geography-test.jsonl" >&2
"$venv/bin/sparserm" evaluate "$root/examples/data/geography-test.jsonl" >&2
"$venv/bin/sparserm" export export --to hf --force >&2
exec "$bench/bin/python" "$root/examples/benchmarks/rewardbench_cpu.py" \
    --pairs "$root/examples/data/geography-test.jsonl" --export export --run "$SPARSERM_RUN"

#!/usr/bin/env bash
# From nothing to scored responses: sets up .venv in the checkout (once), then runs every stage on the shipped
# geography pairs with the embedded default model and the shipped SAE.
# Writes .quickstart/ in the checkout; the model goes to the cache folder named at the end. Nothing else is touched.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(bash "$root/tests/setup.sh")
work="$root/.quickstart"
mkdir -p "$work"
export SPARSERM_RUN="$work/run"
cd "$work"

step() { printf '\n$ sparserm %s\n' "$*" >&2; "$venv/bin/sparserm" "$@"; }

step extract "$root/examples/data/geography-train.jsonl" --model smollm2-135m --layer 14 --force
step encode --sae "$root/examples/sae/smollm2-135m" --force
step frequency
step select --top-k 64
step fit
step score "$root/examples/data/responses.jsonl"
step evaluate "$root/examples/data/geography-test.jsonl"

cat >&2 <<TEXT

The reward model is $SPARSERM_RUN/reward, the scores are $SPARSERM_RUN/scores.jsonl,
the model cache is ${SPARSERM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sparserm}.
Look at the whole chain: SPARSERM_RUN="$SPARSERM_RUN" $venv/bin/sparserm status
TEXT

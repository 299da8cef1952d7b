#!/usr/bin/env bash
# Trains the SAE of the recipe on its training pairs, in the folder of the run; further options go to train-sae.
set -euo pipefail
sparserm train-sae train.jsonl --model qwen2.5-coder-1.5b --layer 14 --output trained-here \
    --d-sae 6144 --k 64 --steps 1000 --batch-rows 1024 "$@"

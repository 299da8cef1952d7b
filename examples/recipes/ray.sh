#!/usr/bin/env bash
# extract by the GPUs (else the CPUs) of a running Ray cluster whose machines share FOLDER, then the rest here:
# bash examples/recipes/ray.sh FOLDER [ADDRESS]
# FOLDER holds sparserm.toml and train.jsonl. Started again it computes only what is not done.
set -euo pipefail
cd "${1:?name the folder with sparserm.toml}"
sparserm extract --engine ray --ray-address "${2:-auto}"
sparserm run

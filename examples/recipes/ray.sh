#!/usr/bin/env bash
# extract and encode by the GPUs (else CPUs) of a running Ray cluster whose machines share FOLDER, the rest here:
# bash examples/recipes/ray.sh FOLDER [ADDRESS]
# FOLDER holds sparserm.toml and train.jsonl. Started again it computes only what is not done.
set -euo pipefail
cd "${1:?name the folder with sparserm.toml}"
for stage in extract encode; do
  sparserm "$stage" --engine ray --ray-address "${2:-auto}"
done
sparserm run

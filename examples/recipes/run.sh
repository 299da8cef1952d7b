#!/usr/bin/env bash
# From public data to a reward model and its accuracy beside the controls, in a folder of its own:
# bash examples/recipes/run.sh gemma-2-2b-it [truthful-qa|safe-rlhf|red-team] [FOLDER]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
recipe=${1:?name a recipe: $(cd "$here" && echo *.toml | sed 's/\.toml//g')}
data=${2:-truthful-qa}
folder=${3:-$recipe-$data}
mkdir -p "$folder"
cp "$here/$recipe.toml" "$folder/sparserm.toml"
cd "$folder"
[ -f test.jsonl ] || python "$here/data.py" "$data"
# A recipe without a public SAE has a script beside it that trains one.
if [ -f "$here/$recipe-sae.sh" ] && [ ! -d trained-here ]; then bash "$here/$recipe-sae.sh"; fi
sparserm run
sparserm evaluate test.jsonl
sparserm report

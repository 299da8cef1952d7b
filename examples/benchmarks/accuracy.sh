#!/usr/bin/env bash
# Captures and encodes preference data with the default model and the shipped SAE, compares SparseRM with its controls
# by grouped cross-validation, tests what was fitted on one data set on the others, and prints it all as Markdown.
#
#   bash examples/benchmarks/accuracy.sh [--quick] [--sweep NAME]... [NAME=FILE]... [-- OPTIONS OF sparserm compare]
#
# Data sets are files given as NAME=FILE; without any, those in the folder $SPARSERM_BENCHMARK_DATA, else the shipped pairs.
# Sweeps: directions, methods, variants, labels, noise, transfer, layers, corrupted, restyled, choice; without any, all but
# choice, which fits every setting many times. layers and choice train SAEs for two more layers, on the last data set; the
# others use layer 14.
# --quick tries two points of the directions, the methods and the other data sets.
# Latents are taken in turn, and by difference beside it, unless an option of compare says otherwise.
# Runs are kept in .benchmarks/ and continued, not repeated: the model sees each text once, whatever is swept.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(bash "$root/tests/setup.sh")
kept="$root/.benchmarks"
sets=() sweeps=() disturbances=() options=(--by forward) quick='' layers=14 saes=(--sae "$root/examples/sae/smollm2-135m")
while [ $# -gt 0 ]; do
    case "$1" in
        --) shift; options+=("$@"); break ;;
        --quick) quick=yes ;;
        --sweep) shift; sweeps+=("$1") ;;
        *=*) sets+=("$1") ;;
        *) echo "accuracy.sh: expected NAME=FILE, --sweep NAME, --quick or --, found '$1'" >&2; exit 2 ;;
    esac
    shift
done
if [ ${#sets[@]} -eq 0 ] && [ -n "${SPARSERM_BENCHMARK_DATA:-}" ]; then
    for set in TruthfulQA=TruthfulQA.csv HH-RLHF=hh-rlhf-harmless-base-test.jsonl.gz \
        "RewardBench 2 safety=reward-bench-2-safety-pairs.jsonl"; do
        file="$SPARSERM_BENCHMARK_DATA/${set#*=}"
        if [ -f "$file" ]; then sets+=("${set%%=*}=$file"); else echo "no $file: left out" >&2; fi
    done
fi
[ ${#sets[@]} -gt 0 ] || sets=("geography=$root/examples/data/geography-train.jsonl")
if [ -n "$quick" ]; then
    options+=(--quick)
elif [ ${#sweeps[@]} -eq 0 ]; then
    sweeps=(directions methods variants labels noise transfer layers corrupted restyled)
fi
for sweep in "${sweeps[@]}"; do
    case "$sweep" in
        corrupted | restyled) disturbances+=("$sweep") ;;
        layers | choice) layers=8,14,20 options+=(--sweep "$sweep") ;;
        *) options+=(--sweep "$sweep") ;;
    esac
done
# Disturbed data are further runs to test on.
transfer=yes
if [ ${#sweeps[@]} -gt 0 ] && [[ " ${sweeps[*]} " != *" transfer "* ]]; then
    transfer=
    [ ${#disturbances[@]} -eq 0 ] || options+=(--sweep transfer)
fi

# Bring a run's capture and its latents up to date: captured RUN FILE LAYERS, encoded RUN SAE...
captured() {
    "$venv/bin/sparserm" extract "$2" --model smollm2-135m --layer "$3" --on-bad-row reject --run "$kept/$1" >&2
}
encoded() {
    "$venv/bin/sparserm" encode --run "$kept/$1" "${@:2}" >&2
}

names=()
for set in "${sets[@]}"; do
    names+=("${set%%=*}, layers $layers")
    captured "${names[-1]}" "${set#*=}" "$layers"
done
for layer in ${layers//,/ }; do
    [ "$layer" != 14 ] || continue
    [ -d "$kept/sae-$layer" ] || "$venv/bin/sparserm" train-sae --run "$kept/${names[-1]}" --layer "$layer" --k 64 \
        --d-sae 2304 --steps 1500 --batch-rows 1024 --lr 0.002 --weights-dtype bfloat16 --output "$kept/sae-$layer" >&2
    saes+=(--sae "$kept/sae-$layer")
done
for name in "${names[@]}"; do encoded "$name" "${saes[@]}"; done
runs=()
for set in "${sets[@]}"; do
    name=${set%%=*} run="${set%%=*}, layers $layers" others=()
    for other in "${names[@]}"; do
        [ -z "$transfer" ] || [ "$other" = "$run" ] || others+=(--other "${other%, layers*}=$kept/$other")
    done
    for way in "${disturbances[@]}"; do
        disturbed="$kept/$name, $way"
        [ -f "$disturbed.jsonl" ] || "$venv/bin/python" "$root/examples/benchmarks/disturb.py" "$way" "${set#*=}" "$disturbed.jsonl"
        captured "$name, $way" "$disturbed.jsonl" 14
        encoded "$name, $way" "${saes[@]:0:2}"
        others+=(--other "$name, $way=$disturbed")
    done
    "$venv/bin/sparserm" compare --run "$kept/$run" --name "$name" --layer 14 "${others[@]}" "${options[@]}" > /dev/null
    runs+=("$kept/$run")
done
exec "$venv/bin/python" "$root/examples/benchmarks/accuracy.py" "${runs[@]}" --output "$kept/accuracy.json"

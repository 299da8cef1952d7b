#!/usr/bin/env bash
# Checks and times on a CUDA machine what the other benchmarks measure on a CPU; writes one JSON file.
# Needs the installed package, the cached smollm2-135m, and nothing from the network:
#   bash examples/benchmarks/gpu.sh [--output gpu.json]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ -n "${PYTHON:-}" ]; then python=$PYTHON; else python=$(command -v python3); fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec timeout 480 "$python" "$root/examples/benchmarks/gpu.py" "$@"

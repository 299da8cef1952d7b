#!/usr/bin/env bash
# Online DPO on TruthfulQA with SparseRM as the reward, against the same loop with pairs drawn at random. Installs
# the extra `align` into .venv (once). Everything is kept in .benchmarks/alignment, and a run that was stopped goes on.
#   bash examples/alignment/loop.sh --truthfulqa TruthfulQA.csv
# `--reward-questions 60 --questions 6 --held-out 6 --answers 3 --tokens 8 --epochs 1` shows every step in minutes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(bash "$root/tests/setup.sh" align)
exec "$venv/bin/python" "$root/examples/alignment/loop.py" --work "$root/.benchmarks/alignment" "$@"

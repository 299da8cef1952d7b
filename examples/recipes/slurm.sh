#!/usr/bin/env bash
# extract by as many jobs as the array has, on one shared folder, then the rest by one job:
# jobs=$(sbatch --parsable --array=0-7 examples/recipes/slurm.sh FOLDER)
# sbatch --dependency=afterok:$jobs examples/recipes/slurm.sh FOLDER
# FOLDER holds sparserm.toml and train.jsonl. A job that was killed is submitted again with its own number.
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
cd "${1:?name the folder with sparserm.toml}"
if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    exec sparserm run
fi
exec sparserm extract --worker "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT"

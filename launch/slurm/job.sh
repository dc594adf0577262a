#!/usr/bin/env bash
# One process per GPU on several machines; JAX finds the others through Slurm's own variables.
#   sbatch launch/slurm/job.sh --config configs/radl.py:magnetic_tile --workdir /shared/runs/x
# A job that is stopped and queued again continues from its last checkpoint. The workdir must be on a file system that all
# machines see.
#SBATCH --job-name=jaxad
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m jaxad.main --distributed=on "$@"

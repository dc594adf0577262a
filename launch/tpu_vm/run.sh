#!/usr/bin/env bash
# The same command on every worker of a Cloud TPU slice; JAX finds the others by itself.
#   launch/tpu_vm/run.sh TPU_NAME ZONE --config configs/radl.py:magnetic_tile --workdir /mnt/runs/x
# The workdir must be a folder that all workers see. Once beforehand, copy the repository to all workers and run there:
#   python3 -m venv .venv && .venv/bin/pip install -e '.[tpu]'
set -euo pipefail
name=${1:?usage: launch/tpu_vm/run.sh TPU_NAME ZONE OPTIONS_OF_JAXAD}
zone=${2:?usage: launch/tpu_vm/run.sh TPU_NAME ZONE OPTIONS_OF_JAXAD}
shift 2
options=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
  --command "cd jaxad && .venv/bin/python -m jaxad.main --distributed=on$options"

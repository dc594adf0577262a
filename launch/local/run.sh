#!/usr/bin/env bash
# The same command in several processes on this machine, joined over loopback:
#   launch/local/run.sh 2 --config configs/radl.py:magnetic_tile --workdir runs/x
# On a machine without accelerators every process gets its share of the CPU (JAX_PLATFORMS=cpu).
set -euo pipefail
processes=${1:?usage: launch/local/run.sh PROCESSES OPTIONS_OF_JAXAD}
shift
export JAXAD_COORDINATOR=${JAXAD_COORDINATOR:-127.0.0.1:$((20000 + RANDOM % 20000))}
export JAXAD_PROCESSES=$processes
python=${PYTHON:-python}
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM EXIT
for ((i = 0; i < processes; i++)); do
  JAXAD_PROCESS=$i "$python" -m jaxad.main "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
trap - EXIT
exit "$status"

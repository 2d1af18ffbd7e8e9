#!/usr/bin/env bash
# Train with several processes on this machine: launch/local.sh PROCESSES --config ... --workdir ...
# Each process takes the accelerators that jax gives it; on a CPU, set JAX_NUM_CPU_DEVICES for more than one device each.
set -euo pipefail
if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh PROCESSES --config FILE --workdir DIR ..." >&2
  exit 2
fi
processes=$1
shift
PYTHON=${PYTHON:-python3}
JAX_COORDINATOR_ADDRESS=127.0.0.1:${PORT:-12355}
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$processes
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < processes; i++)); do
  JAX_PROCESS_ID=$i "$PYTHON" -m vitjax.main --distributed "$@" &
  pids+=($!)
done
# The first that fails ends the others: without it they would wait for it.
for _ in "${pids[@]}"; do
  wait -n
done
trap - EXIT

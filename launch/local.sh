#!/usr/bin/env bash
# Train with several processes on this machine: launch/local.sh PROCESSES --config ... --workdir ...
# On a CPU, JAX_NUM_CPU_DEVICES sets how many devices each of them has.
set -euo pipefail
if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh PROCESSES --config FILE --workdir DIR ..." >&2
  exit 2
fi
processes=$1
shift
PYTHON=${PYTHON:-python3}
coordinator=127.0.0.1:${PORT:-12355}
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < processes; i++)); do
  "$PYTHON" -m vitjax.main --coordinator "$coordinator" --processes "$processes" --process "$i" "$@" &
  pids+=($!)
done
# The first that fails ends the others: without it they would wait for it. Status 75 is a run that
# was told to leave: all of them leave then, and have a checkpoint to finish.
status=0
for _ in "${pids[@]}"; do
  code=0
  wait -n || code=$?
  if [ "$code" -ne 0 ]; then status=$code; fi
  if [ "$code" -ne 0 ] && [ "$code" -ne 75 ]; then exit "$code"; fi
done
trap - EXIT
exit "$status"

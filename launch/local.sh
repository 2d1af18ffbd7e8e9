#!/usr/bin/env bash
# Train with several processes on this machine: launch/local.sh PROCESSES --config ... --workdir ...
# On a CPU, JAX_NUM_CPU_DEVICES sets how many devices each of them has. Needs bash 5.1.
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
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT
# Told to leave, all of them leave, with a checkpoint: it takes one of them to know.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < processes; i++)); do
  "$PYTHON" -m vitjax.main \
    --coordinator "$coordinator" --processes "$processes" --process "$i" "$@" &
  pids+=($!)
done

# The first that fails ends the others. One that raised an error has told them, and they are about
# to go; one that was killed could not. Status 75 is a run that was told to leave.
status=0
left=$processes
while [ "$left" -gt 0 ]; do
  code=0
  wait -n -p ended || code=$?
  if [ -z "${ended:-}" ]; then continue; fi # a signal was passed on
  left=$((left - 1))
  if [ "$code" -eq 0 ]; then continue; fi
  status=$code
  if [ "$code" -eq 75 ]; then continue; fi
  for ((tenths = 0; code < 128 && tenths < 100; tenths++)); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  for i in "${!pids[@]}"; do
    if [ "${pids[i]}" = "$ended" ] && [ "$code" -gt 128 ]; then
      echo "error: process $i was killed by signal $((code - 128)) ($(kill -l "$code"))" >&2
    fi
  done
  break
done
trap - EXIT
exit "$status"

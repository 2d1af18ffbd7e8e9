#!/usr/bin/env bash
# Whatever is worth measuring when a GPU is at hand, in order of worth; each part ends within 8 minutes.
# Needs Python 3.12 with jax, flax, optax and rich; neither TensorFlow nor clu. Usage: benchmarks/gpu.sh [OUT]
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
mkdir -p "$out"

failed=0
part() {
  local name=$1
  shift
  echo "== $name"
  timeout 480 "$@" 2>&1 | tee "$out/$name.log" || { echo "== $name failed"; failed=1; }
}

part step "$python" benchmarks/step.py --out "$out"
part attention "$python" benchmarks/attention.py --out "$out"
part dispatch "$python" benchmarks/dispatch.py --out "$out"
part corruptions "$python" benchmarks/corruptions.py --out "$out"
exit "$failed"

#!/usr/bin/env bash
# Train on a Cloud TPU slice of TPU VMs: queue for it, set up every worker, train on all of them,
# and when the slice was preempted do it again.
#   ZONE=us-west4-a IMAGE=... SHARE=... launch/tpu_vm.sh vitjax-1 \
#     --config configs/vit_b16.py --workdir /runs/vit_b16
# The environment says where and what, see docs/launch.md: ZONE, IMAGE (launch/Dockerfile, tpu),
# SHARE (HOST:/SHARE of NFS, for /runs), ACCELERATOR, RUNTIME, CAPACITY (--spot, --reserved or "").
set -euo pipefail
if [ $# -lt 2 ] || [[ "$1" = -* ]]; then
  echo "usage: launch/tpu_vm.sh NAME --config FILE --workdir /runs/..." >&2
  exit 2
fi
name=$1
shift
zone=${ZONE:?the zone of the TPUs, e.g. us-west4-a}
image=${IMAGE:?the image of launch/Dockerfile, e.g. REGION-docker.pkg.dev/PROJECT/REPO/vitjax:tpu}
share=${SHARE:?HOST:/SHARE, what all workers mount on /runs}
accelerator=${ACCELERATOR:-v5litepod-256}
runtime=${RUNTIME:-v2-alpha-tpuv5-lite}
capacity=${CAPACITY---spot}
tpus=(gcloud compute tpus)

on_all_workers() { "${tpus[@]}" tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

state() {
  "${tpus[@]}" queued-resources describe "$name" --zone="$zone" --format='value(state.state)' \
    2>/dev/null || echo ABSENT
}

give_back() {
  "${tpus[@]}" queued-resources delete "$name" --zone="$zone" --force --quiet
}

# Until the slice is ours: from wherever the last call of this script left it.
take() {
  while true; do
    case $(state) in
      ACTIVE) return ;;
      ABSENT)
        # shellcheck disable=SC2086 # CAPACITY is one flag or none
        "${tpus[@]}" queued-resources create "$name" --node-id="$name" --zone="$zone" \
          --accelerator-type="$accelerator" --runtime-version="$runtime" $capacity
        ;;
      FAILED | SUSPENDED) give_back ;;
      *) sleep "${POLL_SECONDS:-60}" ;;
    esac
  done
}

# The share and the image; what a worker has already, it keeps.
set_up() {
  on_all_workers "set -e
    if ! mountpoint -q /runs; then
      sudo apt-get update -q && sudo apt-get install -y -q nfs-common
      sudo mkdir -p /runs && sudo mount -t nfs $share /runs
    fi
    sudo gcloud auth configure-docker ${image%%/*} --quiet
    sudo docker pull -q $image"
}

# Words of the command line survive the shell of each worker, too.
arguments=$(printf '%q ' "$@")
# The container sees the chips (--privileged) and the other workers (--network), has room for the
# batches of input.workers (--shm-size), and the time to save when it is stopped.
train="sudo docker run --rm --name vitjax --privileged --network host \
  --shm-size 16g --stop-timeout 300 --volume /runs:/runs \
  --env JAX_COMPILATION_CACHE_DIR=/runs/compiled \
  $image --coordinator auto $arguments"
while true; do
  take
  set_up
  status=0
  on_all_workers "$train" || status=$?
  if [ "$status" -eq 0 ]; then
    give_back
    exit 0
  fi
  if [ "$status" -eq 75 ]; then continue; fi # told to leave, and all is saved
  # It is the slice that went, of which its state tells a little later, or the run that failed.
  sleep "${POLL_SECONDS:-60}"
  if [ "$(state)" = ACTIVE ]; then
    echo "error: the run failed with status $status; the slice $name is kept" >&2
    exit "$status"
  fi
done

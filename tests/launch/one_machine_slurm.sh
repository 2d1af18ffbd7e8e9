#!/usr/bin/env bash
# A Slurm cluster of one node, this machine, without systemd: one_machine_slurm.sh start|stop FOLDER
# Everything it writes is in FOLDER; SLURM_CONF=FOLDER/slurm.conf is how sbatch finds it. Needs root
# and Debian's slurmctld, slurmd, slurm-client and munge.
set -euo pipefail
folder=$2
export SLURM_CONF=$folder/slurm.conf
PATH=$PATH:/usr/sbin

start() {
  mkdir -p "$folder"/{controller,node}
  chmod 755 "$folder"
  dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
  chmod 400 "$folder/munge.key"
  # --force: it runs as root, in a folder that is not the system's.
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munge.seed"
  # cred_expire: a job that was requeued waits so long before it starts again, 120 s otherwise.
  # Two tasks run wherever: the processors of the node are what is said here, and none are bound.
  cat >"$SLURM_CONF" <<EOF
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$((PORT))
SlurmdPort=$((PORT + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/controller
SlurmdSpoolDir=$folder/node
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
NodeName=localhost NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
EOF
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF" -N localhost
  for ((i = 0; i < 60; i++)); do
    if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then return; fi
    sleep 1
  done
  tail -n 20 "$folder"/*.log >&2
  return 1
}

stop() {
  for daemon in slurmd slurmctld munged; do
    if [ -f "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" || true; fi
  done
}

case $1 in
  start) start ;;
  stop) stop ;;
  *)
    echo "usage: one_machine_slurm.sh start|stop FOLDER" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# A whole Slurm cluster on this machine, to try launch/slurm/job.sh and for the tests; nothing outside FOLDER is touched.
#   launch/slurm/one_node.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf
#   launch/slurm/one_node.sh stop FOLDER
# Needs slurmctld, slurmd and munge (Debian: apt-get install slurmctld slurmd slurm-client munge); root is not needed.
# There are two partitions: a job in `urgent` takes the machine from one in `normal`, which is told 60 seconds before.
set -euo pipefail
usage="usage: launch/slurm/one_node.sh start|stop FOLDER"
what=${1:?$usage}
folder=$(mkdir -p "${2:?$usage}" && cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf PATH=$PATH:/usr/sbin:/sbin

stop() {
  local daemon pid
  for daemon in slurmd slurmctld munged; do
    pid=$(cat "$folder/$daemon.pid" 2>/dev/null) || continue
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$daemon" ]] || continue
    kill "$pid" || true
    for _ in {1..100}; do kill -0 "$pid" 2>/dev/null && sleep 0.1 || break; done
  done
}

start() {
  local host user cpus port
  host=$(hostname -s) user=$(id -un) cpus=$(($(nproc) > 16 ? $(nproc) : 16)) port=$((20000 + RANDOM % 10000))
  mkdir -p "$folder/state" "$folder/spool"
  chmod 700 "$folder"
  [[ -f $folder/munge.key ]] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
  cat >"$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPort=$port
SlurmdPort=$((port + 1))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=10
MinJobAge=3600
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus
PartitionName=normal Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=$host PriorityTier=2 PreemptMode=OFF
END
  slurmctld
  slurmd
  for _ in {1..100}; do
    [[ $(sinfo --noheader --format=%T 2>/dev/null | sort -u) == idle ]] && return
    sleep 0.3
  done
  echo "the node does not come up; see $folder/slurmctld.log and $folder/slurmd.log" >&2
  tail -n 5 "$folder"/slurm*.log >&2
  stop
  return 1
}

case $what in
  start) start && echo "export SLURM_CONF=$SLURM_CONF" ;;
  stop) stop ;;
  *) echo "$usage" >&2 && exit 2 ;;
esac

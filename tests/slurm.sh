#!/usr/bin/env bash
# slurm.sh install | up FOLDER | down FOLDER | node FOLDER NAME | crash FOLDER NAME
# A private Slurm of two nodes, n1 and n2, on the loopback interface: as root, without systemd, all state in
# one folder. `. FOLDER/env.sh` makes its commands known. crash kills a node with all that runs on it.
set -euo pipefail
action=$1 folder=${2:-} name=${3:-}
export SLURM_CONF=$folder/slurm.conf

install() {
  command -v slurmctld slurmd sinfo munged >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    munge slurmctld slurmd slurm-client </dev/null
}

ended() { # a zombie has ended, even if nobody has asked for its status
  [ ! -d "/proc/$1" ] || grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null
}

stop() { # the daemon of a pid file
  [ -s "$1" ] || return 0
  local pid
  pid=$(cat "$1")
  ended "$pid" || kill "$pid" 2>/dev/null || true
  for _ in $(seq 50); do
    ended "$pid" && break
    sleep 0.1
  done
  ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
  rm -f "$1"
}

below() { # a process and all that it started
  echo "$1"
  local child
  for child in $(ps -o pid= --ppid "$1"); do below "$child"; done
}

crash() {
  local job pid killed=
  for job in $(squeue --noheader --nodelist "$1" --format %i); do
    for pid in $(ps -eo pid=,args= | awk -v job="$job" 'index($0, "slurmstepd: [" job ".") {print $1}'); do
      killed+=" $(below "$pid")"
    done
  done
  kill -KILL "$(cat "$folder/slurmd.$1.pid")" $killed 2>/dev/null || true
  rm -f "$folder/slurmd.$1.pid"
}

down() {
  [ -f "$SLURM_CONF" ] || return 0
  timeout 15 scancel --full --user root 2>/dev/null || true
  for _ in $(seq 50); do
    [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break
    sleep 0.1
  done
  for file in "$folder"/slurmd.*.pid "$folder"/slurmctld.pid "$folder"/munged.pid; do stop "$file"; done
}

configure() {
  rm -rf "$folder" # drained nodes and old jobs would come back
  mkdir -p "$folder"/{bin,devices,log,state}
  (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
  local host node
  host=$(hostname -s)
  cat >"$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$folder/munge.socket
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=0
KillWait=2
SlurmdTimeout=15
SlurmctldTimeout=10
MessageTimeout=10
UnkillableStepTimeout=180
MailProg=/bin/true
GresTypes=gpu
CONF
  # config_overrides: nodes may have more than the machine. JobRequeue=0: a lost job fails, and Snakemake retries.
  echo "AutoDetect=off" >"$folder/gres.conf"
  for node in 1 2; do
    mknod "$folder/devices/gpu$node" c 1 3 # a GPU for the scheduler only: any character device will do
    echo "NodeName=n$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((16820 + node)) CPUs=4 RealMemory=64000 Gres=gpu:1 State=UNKNOWN" >>"$SLURM_CONF"
    echo "NodeName=n$node Name=gpu File=$folder/devices/gpu$node" >>"$folder/gres.conf"
  done
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$SLURM_CONF"
  echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
  # The plugin drops SLURM_CONF before it calls srun inside a job; usual clusters do not need it.
  printf '#!/bin/sh\nSLURM_CONF=%q exec /usr/bin/srun "$@"\n' "$SLURM_CONF" >"$folder/bin/srun"
  chmod 755 "$folder/bin/srun"
  printf 'export SLURM_CONF=%q\nexport PATH=%q:$PATH\n' "$SLURM_CONF" "$folder/bin" >"$folder/env.sh"
}

wait_for_nodes() {
  for _ in $(seq 150); do
    [ "$(sinfo --noheader --Node --states idle 2>/dev/null | wc -l)" -ge 2 ] && return
    sleep 0.1
  done
  sinfo --Node --long
  return 1
}

up() {
  install
  down
  configure
  munged --force --num-threads=2 --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munged.seed"
  slurmctld -i
  for node in n1 n2; do slurmd -N "$node"; done
  wait_for_nodes
}

case $action in
install) install ;;
up) up ;;
down) down ;;
node) slurmd -N "$name" && wait_for_nodes ;;
crash) crash "$name" ;;
*)
  sed -n 2p "$0"
  exit 2
  ;;
esac

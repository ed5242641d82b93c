#!/usr/bin/env bash
# One of these per node, with the same HEAD everywhere. Ranks per node default to the node's GPUs.
#
#   NODES=4 HEAD=node1:29500 bash launch/torchrun_multi_node.sh --config R.yaml --run /shared/runs/big
#
# NODES      how many nodes
# HEAD       host:port of the node that hosts the rendezvous (any of them, a free port)
# JOB        a name that all nodes of this job share and no other job uses (default: dist-dash)
# RANKS      ranks per node (default: its GPUs, else 1)
# GRACE      seconds that the ranks have to save after a signal (default: 300; always 30 where torchrun has no such option, as in torch 2.11)
#
# Exit status: 0 finished, 75 stopped on purpose (start the same again), 2 bad input, else failed. torchrun itself ends with 1 after
# a graceful stop too; the marker file in the run folder tells.
set -uo pipefail
: "${NODES:?set NODES to the number of nodes}" "${HEAD:?set HEAD to host:port of the rendezvous}"
ranks="${RANKS:-gpu}"
[ "$ranks" = gpu ] && ! nvidia-smi -L >/dev/null 2>&1 && ranks=1
run=""
previous=""
for argument in "$@"; do
    [ "$previous" = --run ] && run="$argument"
    case "$argument" in --run=*) run="${argument#--run=}" ;; esac
    previous="$argument"
done
[ -n "$run" ] || { echo "torchrun_multi_node: pass --run FOLDER, on a file system that all nodes share" >&2; exit 2; }

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Agents with restarts on gloo must not share the rendezvous' store with the ranks.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
started=$(mktemp)
export DIST_DASH_STATUS="$started.status"
trap 'rm -f "$started" "$DIST_DASH_STATUS"' EXIT
# The `--` keeps torchrun from taking --run for its own --run-path.
torchrun --nnodes "$NODES" --nproc-per-node "$ranks" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "${JOB:-dist-dash}" ${ADDRESS:+--local-addr "$ADDRESS"} \
    $(python3 -m dist_dash.training.grace "${GRACE:-300}") \
    -m dist_dash -- train "$@" &
agent=$!
# bash would wait for the agent before it reacted; so it hands the signals on.
for signal in TERM INT HUP USR1 USR2; do trap "kill -$signal $agent 2>/dev/null" "$signal"; done
status=0
while kill -0 "$agent" 2>/dev/null; do wait "$agent"; status=$?; done
[ "$run/DONE" -nt "$started" ] && exit 0
[ -e "$run/DONE" ] && [ "$status" -eq 0 ] && exit 0
[ "$run/CONTINUE" -nt "$started" ] && exit 75
grep -qsx 2 "$DIST_DASH_STATUS" && exit 2
exit "$status"

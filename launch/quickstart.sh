#!/usr/bin/env bash
# From a fresh machine to a trained ensemble: three members, DASH, handwritten digits with 40 % wrong labels.
# Ctrl-C stops it with everything saved; the same command goes on. Arguments are passed on, e.g. --method.rho_div 0.2
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/setup.sh

run=runs/quickstart
fresh=()
[ -e "$run/DONE" ] && fresh=(--fresh)

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# One machine: the ranks need not be reachable from others.
export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-lo}"
# The `--` keeps torchrun from taking --run for its own --run-path.
exec .venv/bin/torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 3 \
    $(.venv/bin/python -m dist_dash.training.grace 120) \
    -m dist_dash -- train --config launch/recipes/digits_dash.yaml --run "$run" ${fresh[@]+"${fresh[@]}"} "$@"

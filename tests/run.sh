#!/usr/bin/env bash
# Sets everything up and runs all tests. Arguments go to pytest, e.g. `bash tests/run.sh tests/unit -k losses`.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/setup.sh dev
slurm=yes
for argument in "$@"; do
    case "${argument#./}" in
        tests | tests/ | tests/slurm*) slurm=yes; break ;;
        tests/*) slurm=no ;;
    esac
done
[ $slurm = no ] || bash tests/slurm/install.sh
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest "$@"

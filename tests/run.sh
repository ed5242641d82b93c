#!/usr/bin/env bash
# Sets everything up and runs all tests. Arguments go to pytest, e.g. `bash tests/run.sh tests/unit -k losses`.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/setup.sh dev
wanted=
for argument in "$@"; do
    case "${argument#./}" in
        tests | tests/) wanted="slurm e2e" ;;
        tests/*) wanted="$wanted $(cut -d/ -f2 <<<"${argument#./}")" ;;
    esac
done
[[ " ${wanted:-slurm} " != *" slurm "* ]] || bash tests/slurm/install.sh
[[ " ${wanted:-e2e} " != *" e2e "* ]] || bash tests/e2e/install_chromium.sh
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest "$@"

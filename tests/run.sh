#!/usr/bin/env bash
# Sets everything up and runs tests; the output ends with pytest's summary.
#   bash tests/run.sh                    all of them, in at most 15 minutes on two cores: three workers share the files,
#                                        and one of them takes the tests of Slurm, which wait more than they compute
#   bash tests/run.sh --quick            an answer in 2 minutes: QUICK below, with few examples of each property
#   bash tests/run.sh tests/unit -k loss any other arguments are pytest's; no workers unless `-n` asks for them
set -euo pipefail
cd "$(dirname "$0")/.."

# The core and the formulas, the distributed step against its oracle, and one whole run against its golden curve.
QUICK=(
    tests/unit/{commands,data,ensembles,methods,metrics,models,ranks,recipe,runs,training,trajectories} tests/unit/test_*.py
    tests/property
    tests/distributed/test_oracle.py
    tests/e2e/test_golden.py::test_the_golden_curve
)

bash launch/setup.sh dev
export OMP_NUM_THREADS=1
wanted=
for argument in "$@"; do
    case "${argument#./}" in
        tests | tests/) wanted="slurm e2e" ;;
        tests/*) wanted="$wanted $(cut -d/ -f2 <<<"${argument#./}")" ;;
    esac
done
case "${1:-}" in
    "") set -- -n 3 ;;
    --quick)
        set -- -n 2 "${QUICK[@]}" "${@:2}"
        wanted=none
        export DIST_DASH_QUICK=1
        ;;
esac
[[ " ${wanted:-slurm} " != *" slurm "* ]] || bash tests/slurm/install.sh
[[ " ${wanted:-e2e} " != *" e2e "* ]] || bash tests/e2e/install_chromium.sh
exec .venv/bin/python -m pytest "$@"

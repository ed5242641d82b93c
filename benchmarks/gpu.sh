#!/usr/bin/env bash
# Everything that only a GPU can show, in at most 8 minutes, ending in one table; `--help` shows the options.
# The project need not be installed; `--device cpu --tiny` tries every part without a GPU.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=python3
[[ ! -x "$root/.venv/bin/python" ]] || python="$root/.venv/bin/python"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
exec "$python" -m benchmarks.gpu "$@"

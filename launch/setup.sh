#!/usr/bin/env bash
# Makes .venv beside this folder's parent and installs the project into it; does nothing where that is done already.
# Usage: bash launch/setup.sh [EXTRA]      e.g. `bash launch/setup.sh dev`
set -euo pipefail
cd "$(dirname "$0")/.."
extra="${1:-}"

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "setup: $python is missing or older than Python 3.10; set PYTHON=/path/to/a newer one" >&2
    exit 2
fi

# Only what was installed from exactly these two files counts as done; the developers' set-up holds the users'.
versions="$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)"
stamp=".venv/.installed-${extra:-base}-$versions"
[ -e "$stamp" ] && exit 0
[ -z "$extra" ] && [ -e ".venv/.installed-dev-$versions" ] && exit 0

echo "setup: installing into .venv (once; a few minutes)" >&2
if ! "$python" -m venv .venv 2>/dev/null; then
    echo "setup: $python cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 2
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
touch "$stamp"

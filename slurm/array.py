"""`dist-dash array` as a script: `python slurm/array.py --help`."""

import sys
from pathlib import Path

# Not this folder: its array.py would pass for the standard library's.
sys.path[0] = str(Path(__file__).parents[1])

from dist_dash.commands.cli import main
from dist_dash.runs.process import leave

leave(main(["array", *sys.argv[1:]]))

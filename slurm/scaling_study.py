"""`dist-dash scaling` as a script: `python slurm/scaling_study.py --help`."""

import sys
from pathlib import Path

# Not this folder: its array.py would pass for the standard library's.
sys.path[0] = str(Path(__file__).parents[1])

from dist_dash.commands.cli import main
from dist_dash.runs.process import leave

leave(main(["scaling", *sys.argv[1:]]))

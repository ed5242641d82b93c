"""`dist-dash scaling` as a script: `python slurm/scaling_study.py --help`."""

import sys

sys.path.pop(0)  # this folder: its array.py would pass for the standard library's

from dist_dash.cli import leave, main

leave(main(["scaling", *sys.argv[1:]]))

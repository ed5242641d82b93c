"""`dist-dash submit` as a script: `python slurm/submit.py --help`."""

import sys

sys.path.pop(0)  # this folder: its array.py would pass for the standard library's

from dist_dash.cli import leave, main

leave(main(["submit", *sys.argv[1:]]))

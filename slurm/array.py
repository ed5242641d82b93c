"""`dist-dash array` as a script: `python slurm/array.py --help`."""

import sys

sys.path.pop(0)  # this folder: its array.py would pass for the standard library's

from dist_dash.cli import leave, main

leave(main(["array", *sys.argv[1:]]))

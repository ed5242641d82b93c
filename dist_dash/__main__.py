"""`python -m dist_dash`, as torchrun and srun start it."""

import sys

from dist_dash.cli import main

if __name__ == "__main__":
    sys.exit(main())

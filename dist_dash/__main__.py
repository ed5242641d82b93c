"""`python -m dist_dash`, as torchrun and srun start it."""

from dist_dash.commands.cli import main
from dist_dash.runs.process import leave

if __name__ == "__main__":
    leave(main())

"""`python -m dist_dash`, as torchrun and srun start it."""

from dist_dash.cli import leave, main

if __name__ == "__main__":
    leave(main())

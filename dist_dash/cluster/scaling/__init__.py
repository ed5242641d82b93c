"""The scaling study: short runs over members × replicas, here or under Slurm; one table, one plot.

May import the rest of `cluster` and everything below. Start with `grid.py`: points, measures, efficiencies.
"""

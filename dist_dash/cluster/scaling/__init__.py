"""The scaling study: short runs over members × replicas, here or under Slurm; one table, one plot."""

"""Runs on a Slurm cluster: what a site asks for, jobs, sweeps, and what a rank needs."""

"""Slurm: what a site asks for, plans, submission, requeueing, sweeps, the job on every rank, memory, scaling studies.

May import `study` and everything below. Start with `submission.py`; `requeue.py` decides whether a job starts again.
"""

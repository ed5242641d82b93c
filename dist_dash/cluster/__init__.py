"""Slurm: site settings, plans, submission, requeueing, sweeps, the job on every rank, memory, the scaling study.

May import `study` and everything below. Start with `submission.py`; `requeue.py` decides whether a job starts again.
"""

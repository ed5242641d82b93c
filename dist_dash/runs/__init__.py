"""A run on disk and while it runs: its folder and owner, checkpoints, signals, record, environment, states.

May import `models`, `data`, `metrics` and `ranks`. Start with `folder.py`, then `owner.py`.
"""

"""A run on disk and in life: its folder and owner, checkpoints, signals, record, environment, states.

May import `models`, `data`, `metrics` and `ranks`. Start with `folder.py`.
"""

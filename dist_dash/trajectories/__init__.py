"""How one chain of updates becomes members: the learning rate, when weights are saved, when they start anew.

May import `methods` and everything below. Start with `trajectory.py` (what a trajectory is), then `schedules.py`.
"""

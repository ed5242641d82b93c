"""How one chain of updates becomes members: the learning rate over time.

May import `methods` and everything below. Start with `schedules.py`.
"""

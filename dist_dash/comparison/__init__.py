"""Finished runs against one another: groups over seeds, paired differences with intervals, cost, verdicts.

May import `analysis` and everything below. Start with `grouping.py`.
"""

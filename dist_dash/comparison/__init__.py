"""Comparisons of finished runs: groups over seeds, paired differences with intervals, cost, verdicts.

May import `analysis` and everything below. Start with `grouping.py`.
"""

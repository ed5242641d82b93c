"""Finished members: load them, predict with them, join members that were trained alone.

May import `recipe` and everything below. Start with `ensemble.py`.
"""

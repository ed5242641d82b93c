"""An ensemble under corruption, and its detection of out-of-distribution samples.

May import `ensembles` and everything below. Start with `measurement.py`.
"""

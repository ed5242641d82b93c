"""One run, from start to end: build, the loop, agreement between ranks, evaluation on the way, starting local ranks.

May import `ensembles` and everything below. Start with `train.py`.
"""

"""How flat the loss is around a network's weights: pure computations on networks.

May import `ensembles` and everything below. Start with `measure.py`.
"""

"""Accuracy, calibration and diversity of predictions: pure functions on arrays.

May import `ranks` and the files beside the folders; never needs torch. Start with `summary.py`.
"""

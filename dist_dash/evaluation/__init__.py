"""Accuracy, calibration and diversity of predictions: pure functions on arrays; never imports the trainer."""

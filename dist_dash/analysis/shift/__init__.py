"""Behaviour away from the training data: common corruptions, and detection of samples of other data sets."""

"""One network on this rank: gradients, perturbations, the engines that own precision, losses, parameter vectors.

May import `runs`, `models`, `data`, `metrics` and `ranks`. Start with `member.py`.
"""

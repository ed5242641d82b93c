"""Every choice of a run, typed by the classes that implement it; parsing, and one line for whatever is wrong.

May import `trajectories`, `methods` and everything below. Start with `recipe.py`.
"""

"""Pictures and pages about finished runs: one file per picture, one page per run or folder of runs.

May import `comparison` and everything below, but never `training`. Start with `run_page.py`.
"""

"""Promises tried many times, with drawn faults: `python -m tests.campaign [--quick]` runs every part.

A part is a module with `main(arguments) -> int`, which is 0 where all held and whose last line is `H of N hold`.
"""

"""The command line: one file per command, its options and one call. Nothing heavy is imported before that.

May import every folder. Start with `cli.py`, the list of commands.
"""

"""A whole comparison in one command: methods × conditions × seeds, settings chosen on validation data.

May import `report` and everything below. Start with `study_plan.py`.
"""

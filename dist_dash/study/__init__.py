"""A whole comparison in one command: methods × conditions × seeds, settings chosen on validation data."""

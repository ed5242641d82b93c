"""What only a GPU can show: one file a part, each a process of its own. Start with `__main__.py`."""

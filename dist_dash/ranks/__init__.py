"""Who this process is and what crosses between processes: layout, launchers' variables, exchange, peers, clock.

May import only the files beside the folders. Start with `layout.py`, then `exchange.py`.
"""

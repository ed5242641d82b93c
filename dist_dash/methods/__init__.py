"""One file per update rule: a method turns a batch into one update of one member.

May import `member` and everything below. Start with `method.py` (what a method is), then `dash.py`.
"""

from dist_dash.methods.dash import DASH
from dist_dash.methods.method import Measured, Method, Totals
from dist_dash.methods.sam import SAM
from dist_dash.methods.sgd import SGD

__all__ = ["DASH", "SAM", "SGD", "Measured", "Method", "Totals"]

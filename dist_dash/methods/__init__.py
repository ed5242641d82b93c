"""One file per update rule: a method turns a batch into one update of one member.

May import `member` and everything below. Start with `method.py` (what a method is), then `dash.py`.
"""

from dist_dash.methods.aesam import AESAM
from dist_dash.methods.asam import ASAM
from dist_dash.methods.dash import DASH
from dist_dash.methods.esam import ESAM
from dist_dash.methods.fsam import FSAM
from dist_dash.methods.gam import GAM
from dist_dash.methods.gsam import GSAM
from dist_dash.methods.looksam import LookSAM
from dist_dash.methods.method import Measured, Method, Totals
from dist_dash.methods.msam import MSAM
from dist_dash.methods.repulsive import Repulsive
from dist_dash.methods.sam import SAM
from dist_dash.methods.sgd import SGD
from dist_dash.methods.sharpbalance import SharpBalance

__all__ = [
    "AESAM",
    "ASAM",
    "DASH",
    "ESAM",
    "FSAM",
    "GAM",
    "GSAM",
    "MSAM",
    "SAM",
    "SGD",
    "LookSAM",
    "Measured",
    "Method",
    "Repulsive",
    "SharpBalance",
    "Totals",
]

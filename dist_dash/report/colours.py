"""Colours and markers that tell members apart: for the colour-blind as well, and never colour alone."""

from __future__ import annotations

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
"""Okabe & Ito (2008), their yellow, which is pale on white, replaced by a brown."""
MARKERS = "osD^vP*X"


def colour(index: int) -> str:
    """Of a member, a pair or a run."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Of a member, a pair or a run."""
    return MARKERS[index % len(MARKERS)]
